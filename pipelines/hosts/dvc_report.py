"""Metrics and plots of a DVC project, and the name under which its outcome is kept."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from folkmoot.identity.orders import signature_key
from folkmoot.plan import RunContext, keys
from folkmoot.wire import canonical_json, digest
from pipelines.coordinator.open_round import load_json
from pipelines.hosts.dvc_pipeline import PLOTTED
from pipelines.hosts.walk import record

__all__ = ["kept_run", "write_report"]


def write_report(context: RunContext, folder: Path) -> None:
    """Write ``metrics.json``, ``rounds.csv`` and ``sites.csv``.

    A round's line holds the metrics of the model *after* it, which the sites counted in the round
    that followed, and epsilon as spent up to it (the largest of all sites).
    """
    result = load_json(context, keys.RESULT) or {}
    last = int(result["rounds"])
    spent = {site: entry["epsilon"] for site, entry in result["privacy"].items()}
    metrics = {
        "overall": result["metrics"].get("overall", {}),
        "sites": result["metrics"].get("sites", {}),
        "rounds": last,
        "epsilon": {site: value for site, value in spent.items() if value is not None},
    }
    if "statistics" in result:
        metrics["statistics"] = result["statistics"]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(metrics, indent=1, sort_keys=True)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    rounds, sites = _tables(context, result, last)
    _csv(folder / "rounds.csv", rounds)
    _csv(folder / "sites.csv", sites)


def kept_run(context: RunContext) -> dict[str, Any]:
    """Keep the concluded run under a name of its own content, and return its result.

    The project's run is overwritten when something changes; what MLflow and the model registry
    refer to must stay.  Files are linked, not copied; O(files).
    """
    result = load_json(context, keys.RESULT) or {}
    opened = load_json(context, keys.RUN) or {}
    name = f"{context.run}-{digest(canonical_json([opened, result]))[:8]}"
    source = Path(context.store.url.removeprefix("file://")) / context.key("")
    target = source.parent / name
    named = (keys.RUN, keys.RESULT)  # they hold the run's name, which changes here
    own = {*named, *map(signature_key, named)}
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if path.is_file() and path.name[0] != "." and str(inner) not in own:
            copy = target / inner
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                os.link(path, copy)
    prefix = f"{context.federation}/runs/{name}"
    context.store.put(f"{prefix}/{keys.RUN}", canonical_json({**opened, "run": name}))
    kept = {**result, "run": name}
    context.store.put(f"{prefix}/{keys.RESULT}", canonical_json(kept))
    return kept


def _tables(
    context: RunContext, result: Mapping[str, Any], last: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of ``rounds.csv`` and ``sites.csv``."""
    records = {round: record(context, round) or {} for round in range(1, last + 1)}
    measured = {
        entry["metrics_round"]: entry["metrics"]
        for entry in records.values()
        if entry.get("metrics_round")
    }
    measured[last] = result["metrics"]
    primary = PLOTTED[context.contract.task][0]
    rounds, sites = [], []
    for round, metrics in sorted(measured.items()):
        privacy = records[round].get("privacy", {}).values()
        spent = [entry["epsilon"] for entry in privacy if entry["epsilon"] is not None]
        epsilon = {"epsilon": max(spent)} if spent else {}
        took = {"participants": len(records[round].get("participants", {}))}
        rounds.append({"round": round, **took, **metrics.get("overall", {}), **epsilon})
        per_site = {site: own.get(primary) for site, own in metrics.get("sites", {}).items()}
        sites.append({"round": round, **per_site})
    return rounds, sites


def _csv(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    lines = list(lines)
    names = list(dict.fromkeys(name for line in lines for name in line))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
