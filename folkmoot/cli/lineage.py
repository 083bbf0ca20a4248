"""``folkmoot lineage``: from a model to its data, and from data to the models it went into."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("lineage")(lineage)


def lineage(
    model: Annotated[
        str | None,
        typer.Argument(help="NAME, NAME@ALIAS, NAME/VERSION, a run's name or a model digest."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="FP", help="Fingerprint of a dataset version, or its beginning."),
    ] = None,
    params: Annotated[Path, typer.Option("--params", help="The federation's settings.")] = Path(
        "params.yaml"
    ),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Show which dataset versions made a model, or which models a dataset version went into.

    **Examples**

    `folkmoot lineage demo-linear@champion` lists the dataset version of every site behind it.

    `folkmoot lineage demo-linear/3 --json`

    `folkmoot lineage --dataset 4f1c09` lists every model that this dataset version went into.

    `folkmoot lineage` lists all models.
    """
    from rich.console import Console

    from folkmoot.errors import ConfigError
    from folkmoot.params import load_params
    from pipelines.coordinator.lineage import made_of, went_into

    if model is not None and dataset is not None:
        raise ConfigError(
            "config.invalid",
            "A model and --dataset were both given.",
            "Ask for one of them at a time.",
        )
    settings = load_params(params, set_ or [])
    workspace = Path(settings.federation.workspace)
    console = Console()
    if model is not None:
        found = made_of(settings, workspace, model).to_dict()
        if as_json:
            _write(found)
        else:
            _show_model(console, found)
        return
    models = [version.to_dict() for version in went_into(settings, workspace, dataset or "")]
    if as_json:
        _write({"dataset": dataset, "models": models})
    else:
        _show_models(console, models, dataset)


def _show_model(console: Console, found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{found['name']} version {found['version']}{_aliases(found)}")
    table.add_column("site")
    table.add_column("dataset version (fingerprint; --json has all of it)", no_wrap=True)
    for site, fingerprints in found["datasets"].items():
        table.add_row(site, "\n".join(fingerprint[:32] for fingerprint in fingerprints))
    console.print(table)
    _line(console, f"Run {found['run']} of federation {found['federation']}, {_privacy(found)}")
    _line(console, f"Model digest {found['model_digest']}")


def _show_models(console: Console, models: list[dict[str, Any]], dataset: str | None) -> None:
    from rich.table import Table

    if not models:
        what = f"a dataset version {dataset}…" if dataset else "any dataset"
        _line(console, f"No registered model was made of {what}.")
        return
    table = Table(title=f"Models made of dataset version {dataset}…" if dataset else "Models")
    for name in ("model", "version", "aliases", "run", "site", "epsilon"):
        table.add_column(name, no_wrap=name in {"model", "version"})
    for found in models:
        sites = [
            site
            for site, prints in found["datasets"].items()
            if any(fingerprint.startswith(dataset or "") for fingerprint in prints)
        ]
        table.add_row(
            found["name"],
            str(found["version"]),
            ", ".join(found["aliases"]),
            found["run"],
            ", ".join(sites),
            _epsilon(found),
        )
    console.print(table)


def _aliases(found: dict[str, Any]) -> str:
    return f" ({', '.join(found['aliases'])})" if found["aliases"] else ""


def _privacy(found: dict[str, Any]) -> str:
    return "no differential privacy" if found["epsilon"] is None else f"epsilon {_epsilon(found)}"


def _epsilon(found: dict[str, Any]) -> str:
    if found["epsilon"] is None:
        return "–"
    return f"{found['epsilon']:.4g}" + ("" if found["private"] else " (NOT PRIVATE)")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _write(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, sort_keys=True) + "\n")
