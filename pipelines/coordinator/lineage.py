"""Lineage: which dataset versions made a model, and which models a dataset version went into.

Both are answered from the tags of registered versions (``pipelines.coordinator.model_version``).  A
dataset version is known by its keyed fingerprint alone, which only its own site can compute.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.errors import ConfigError
from folkmoot.params import Params
from pipelines.coordinator.mlflow_store import connect, conversation
from pipelines.coordinator.model_version import DATASET, METRIC

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["ModelLineage", "made_of", "went_into"]


@dataclass(frozen=True)
class ModelLineage:
    """A registered version and what it was made of.

    Parameters
    ----------
    name, version, aliases
        As in ``models:/<name>/<version>`` and ``models:/<name>@<alias>``.
    run, federation, kind
        The training.
    model_digest : str
        SHA-256 of the published global model.
    datasets : dict of str to list of str
        Fingerprints of the dataset versions by site, in order of use.
    private, epsilon
        Whether differential privacy holds, and the largest epsilon of a site.
    metrics : dict of str to float
        On all sites' held-out rows.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    run: str
    federation: str
    kind: str
    model_digest: str
    datasets: dict[str, list[str]]
    private: bool
    epsilon: float | None
    metrics: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "aliases": list(self.aliases)}


def made_of(params: Params, workspace: Path, model: str) -> ModelLineage:
    """Which dataset versions of which sites made a model.

    Parameters
    ----------
    params, workspace
        Which MLflow.
    model : str
        ``NAME`` (its newest version), ``NAME@ALIAS``, ``NAME/VERSION``, the name of a run, or the
        first eight or more characters of a model digest; ``models:/`` before it is welcome.

    Raises
    ------
    ConfigError
        ``config.invalid`` where there is no such model, naming the nearest.
    """
    versions = _versions(params, workspace)
    text = model.removeprefix("models:/")
    name, alias = text.split("@", 1) if "@" in text else (text, None)
    number = None
    if alias is None and "/" in text:
        name, _, tail = text.rpartition("/")
        number = int(tail) if tail.isdigit() else -1
    matches = [
        version
        for version in versions
        if version.name == name
        and (alias is None or alias in version.aliases)
        and (number is None or version.version == number)
    ]
    if not matches:
        matches = [v for v in versions if _is(v, text)]
    if not matches:
        known = sorted({v.name for v in versions})
        near = difflib.get_close_matches(name, known, 3) or known[:5]
        raise ConfigError(
            "config.invalid",
            f"There is no registered model {text}.",
            f"Known models: {', '.join(near) or 'none yet'}. Write NAME, NAME@champion or NAME/3.",
        )
    return max(matches, key=lambda version: version.version)


def went_into(params: Params, workspace: Path, fingerprint: str) -> list[ModelLineage]:
    """Models that a dataset version went into, newest version first; O(registered versions).

    Parameters
    ----------
    params, workspace
        Which MLflow.
    fingerprint : str
        A fingerprint or its beginning; empty for every model.
    """
    found = [
        version
        for version in _versions(params, workspace)
        if any(f.startswith(fingerprint) for prints in version.datasets.values() for f in prints)
    ]
    return sorted(found, key=lambda version: (version.name, -version.version))


def _is(version: ModelLineage, text: str) -> bool:
    return version.run == text or (len(text) >= 8 and version.model_digest.startswith(text))


def _versions(params: Params, workspace: Path) -> list[ModelLineage]:
    """Every version that a Folkmoot training made."""
    with conversation(params, workspace):
        client = connect(params, workspace)
        aliases = _aliases(client)
        found, token = [], None
        while True:
            page = client.search_model_versions(page_token=token)
            found += [
                _lineage(v.name, int(v.version), v.tags, aliases.get((v.name, str(v.version)), ()))
                for v in page
                if "folkmoot.run" in v.tags
            ]
            token = page.token
            if not token:
                return found


def _aliases(client: MlflowClient) -> dict[tuple[str, str], tuple[str, ...]]:
    """Aliases by (name, version); a search of versions does not bring them."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    token = None
    while True:
        page = client.search_registered_models(page_token=token)
        for model in page:
            for alias, version in sorted(model.aliases.items()):
                key = (model.name, str(version))
                found[key] = (*found.get(key, ()), alias)
        token = page.token
        if not token:
            return found


def _lineage(
    name: str, version: int, tags: Mapping[str, str], aliases: tuple[str, ...]
) -> ModelLineage:
    epsilon = tags.get("folkmoot.epsilon")
    prefix = len(DATASET)
    return ModelLineage(
        name=name,
        version=version,
        aliases=aliases,
        run=tags["folkmoot.run"],
        federation=tags.get("folkmoot.federation", ""),
        kind=tags.get("folkmoot.kind", ""),
        model_digest=tags.get("folkmoot.model_digest", ""),
        datasets={k[prefix:]: v.split() for k, v in sorted(tags.items()) if k.startswith(DATASET)},
        private=tags.get("folkmoot.private") == "true",
        epsilon=None if epsilon is None else float(epsilon),
        metrics={
            k[len(METRIC) :]: float(v) for k, v in sorted(tags.items()) if k.startswith(METRIC)
        },
    )
