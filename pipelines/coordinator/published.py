"""What a run has published so far: the one source that tracking mirrors.

Reads the exchange store and the coordinator's own folder of the run, nothing else, so that MLflow
can be down, deleted or moved: whatever it missed is still here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from folkmoot.errors import ProtocolError
from folkmoot.plan import RunContext, keys
from folkmoot.updates import open_released
from pipelines.coordinator.lock import folder
from pipelines.coordinator.open_round import load_json

__all__ = ["Published", "largest_epsilon", "published", "risk_summaries"]

_FIGURES = ("rows", "suppressed", "k", "prosecutor", "journalist", "marketer", "loss")
_CHANCES = {"highest", "average", "at_risk"}


@dataclass(frozen=True)
class Published:
    """Round records, result and baselines of one run.

    Parameters
    ----------
    records : tuple of dict
        ``record.json`` of the rounds 1, 2, … without a gap.
    result : dict or None
        ``result.json`` once the run is over.
    baselines : dict or None
        ``alone`` and ``pooled`` once they were computed (recipes only).
    """

    records: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None
    baselines: dict[str, Any] | None

    @property
    def datasets(self) -> dict[str, list[str]]:
        """Every dataset fingerprint that any round used, by site, in order of first use."""
        found: dict[str, dict[str, None]] = {}
        for record in self.records:
            for site, fingerprint in record["datasets"].items():
                found.setdefault(site, {})[fingerprint] = None
        return {site: list(found[site]) for site in sorted(found)}

    @property
    def epsilon(self) -> float | None:
        """Largest epsilon that a site has spent on this run; None without differential privacy."""
        last = self.result or (self.records[-1] if self.records else None)
        return None if last is None else largest_epsilon(last)

    def outcome(self, run: str) -> dict[str, Any]:
        """The result.

        Raises
        ------
        ProtocolError
            ``protocol.missing`` while the run is not over.
        """
        if self.result is None:
            raise ProtocolError(
                "protocol.missing",
                f"Run {run} has no result yet.",
                "Let the run end first: start it again and it goes on where it was.",
            )
        return self.result


def published(context: RunContext) -> Published:
    """Read what is there; records that were read before are kept in ``context.cache``."""
    records: list[dict[str, Any]] = context.cache.setdefault("tracking.records", [])
    while (record := load_json(context, keys.record(len(records) + 1))) is not None:
        records.append(record)
    return Published(tuple(records), load_json(context, keys.RESULT), _baselines(context))


def risk_summaries(context: RunContext) -> dict[str, dict[str, Any]]:
    """Figures of their risk reports that sites let out with their statistics, by site.

    Only what ``site.toml`` lists leaves a site (``anonymisation.summary``), nothing by default.
    """
    found: dict[str, dict[str, Any]] = {}
    for site in context.params.federation.members:
        data = context.store.find(context.key(keys.statistics(site)))
        expect = {"run": context.run, "site": site, "step": f"prepare/encode/{site}"}
        try:
            risk = (
                None if data is None else open_released(data, context.roster, expect).meta["risk"]
            )
        except (ProtocolError, KeyError):
            continue
        if isinstance(risk, dict):
            known = {name: risk[name] for name in _FIGURES if _figure(risk.get(name))}
            found |= {site: known} if known else {}
    return found


def _figure(value: object) -> bool:
    """Whether a site's word is a figure, or the three of one attacker."""
    if isinstance(value, dict):
        return value.keys() <= _CHANCES and all(isinstance(v, float | int) for v in value.values())
    return isinstance(value, float | int)


def largest_epsilon(record: Mapping[str, Any]) -> float | None:
    """Largest epsilon over the sites of a round record, or None."""
    spent = [site["epsilon"] for site in record["privacy"].values() if site["epsilon"] is not None]
    return max(spent, default=None)


def _baselines(context: RunContext) -> dict[str, Any] | None:
    path = folder(context.workspace, context.federation) / "runs" / context.run / "baselines.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())["baselines"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found
