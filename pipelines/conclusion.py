"""After the last round, on the coordinator's machine: model file, baselines, tracking, report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from folkmoot.errors import FolkmootError
from folkmoot.params import Params
from folkmoot.plan import RunContext
from folkmoot.wire import canonical_json, digest
from pipelines.hosts.execute import open_context, store_of

__all__ = ["conclude_locally", "decide", "register", "report", "run_folder", "statistics_report"]


def run_folder(context: RunContext) -> Path:
    """The coordinator's folder of a run: model files, baselines, reports."""
    return context.workspace / "coordinator" / context.federation / "runs" / context.run


def conclude_locally(
    params: Params,
    result: dict[str, Any],
    *,
    baselines: bool = True,
    workspace: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Write the model file, compare with baselines, track; idempotent.

    Parameters
    ----------
    params : Params
        The run's settings.
    result : dict
        The run's ``result.json`` with ``seconds``.
    baselines : bool
        Whether to train each site alone and pooled (recipes only).
    workspace : Path, optional
        Instead of ``federation.workspace``.
    say : callable
        Told what goes on.

    Returns
    -------
    dict
        ``result`` with ``model_path``, ``baselines`` and ``registered`` (name and version, or None).
    """
    workspace = workspace or Path(params.federation.workspace)
    store = store_of(params, workspace)
    context = open_context(result["run"], result["federation"], store, workspace)
    if result["kind"] == "statistics":
        return {**result, **statistics_report(context, result, say)}
    result = {**result, **report(context, result, baselines=baselines, say=say)}
    if "registered" not in result:  # a DAG has done so already
        result["registered"] = _track(context, say) if params.tracking.enabled else None
    return result


def report(
    context: RunContext,
    result: dict[str, Any],
    *,
    baselines: bool = True,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Write the model file and compare with baselines; returns ``model_path`` and ``baselines``."""
    from pipelines.baselines import simulated

    path = str(_model_file(context, result))
    wanted = baselines and context.params.tracking.baselines
    if not wanted or not simulated(context, result["datasets"]):
        return {"model_path": path, "baselines": None}
    return {"model_path": path, "baselines": _baselines(context, result, say)}


def statistics_report(
    context: RunContext,
    result: dict[str, Any],
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Write ``statistics.json`` and log it; returns ``model_path``, ``baselines`` and ``registered``."""
    folder = run_folder(context)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "statistics.json"
    _write(path, json.dumps(result, indent=1, sort_keys=True).encode() + b"\n")
    tracked = None
    if context.params.tracking.enabled:
        from pipelines.coordinator import statistics_log

        say("MLflow: questions and figures")
        try:
            tracked = statistics_log.log(context, result)
        except FolkmootError as error:
            if not error.retryable:
                raise
            say(f"{error} The run itself is complete.")
    return {"model_path": str(path), "baselines": None, "registered": None, "tracked": tracked}


def register(context: RunContext) -> dict[str, Any] | None:
    """Bring MLflow up to date and register the model; None where params do not want it.

    What was registered is written beside the run as well (``registered.json``).

    Raises
    ------
    TransientError
        Where MLflow does not answer.
    """
    from pipelines.coordinator import tracking

    tracking.sync(context)
    if not context.params.tracking.register_model:
        return None
    registered = asdict(tracking.register(context))
    _write(run_folder(context) / "registered.json", canonical_json(registered))
    return registered


def decide(context: RunContext, approved: bool, by: str) -> dict[str, Any]:
    """A person's decision whether the model becomes champion; also in ``registered.json``.

    Raises
    ------
    ConfigError, TransientError
        As :func:`pipelines.coordinator.tracking.decide`.
    """
    from pipelines.coordinator import tracking

    registered = asdict(tracking.decide(context, approved, by))
    run_folder(context).mkdir(parents=True, exist_ok=True)
    _write(run_folder(context) / "registered.json", canonical_json(registered))
    return registered


def _model_file(context: RunContext, result: dict[str, Any]) -> Path:
    """The global model as its own kind of file: wire format, or XGBoost's UBJSON for trees."""
    folder = run_folder(context)
    folder.mkdir(parents=True, exist_ok=True)
    data = context.store.get(context.key(result["model"]), result["model_digest"])
    path = folder / "model.folkmoot"
    _write(path, data)
    if result["kind"] == "trees":
        from folkmoot.models.trees import to_xgboost
        from folkmoot.wire import decode

        path = folder / "model.ubj"
        _write(path, bytes(to_xgboost(decode(data, kind="model")).save_raw("ubj")))
    return path


def _baselines(
    context: RunContext, result: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Baselines depend on data and settings alone, so they are kept beside the run."""
    from pipelines.baselines import baselines

    path = run_folder(context) / "baselines.json"
    stamp = digest(canonical_json([result["datasets"], result["run"], result["rounds"]]))
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept.get("stamp") == stamp:
            found: dict[str, Any] = kept["baselines"]
            return found
    say("Baselines: each site alone, and pooled rows")
    computed = baselines(context, sorted(result["datasets"]))
    _write(path, canonical_json({"stamp": stamp, "baselines": computed}))
    return computed


def _track(context: RunContext, say: Callable[[str], None]) -> dict[str, Any] | None:
    """MLflow; where it is down the run stands, and `folkmoot run` again catches up."""
    say("MLflow: rounds, model and budgets")
    try:
        return register(context)
    except FolkmootError as error:
        if not error.retryable:
            raise
        say(f"{error} The run itself is complete.")
        return None


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)
