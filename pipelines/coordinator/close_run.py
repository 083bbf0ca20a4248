"""Conclude a run: combine the sites' evaluation of the last model and write the result."""

from __future__ import annotations

from typing import Any

from folkmoot.exchange import ArtifactRef
from folkmoot.plan import RunContext, Step, keys
from folkmoot.wire import canonical_json, decode, digest
from pipelines.coordinator import lock, orders
from pipelines.coordinator.aggregate.secure_sum import gather
from pipelines.coordinator.close_round import combined_metrics, privacy_so_far
from pipelines.coordinator.collect import collect
from pipelines.coordinator.fits import check_evaluation
from pipelines.coordinator.gate import judge
from pipelines.coordinator.open_round import load_json

__all__ = ["conclude"]


def conclude(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Write ``final/result.json``: the model, its metrics, datasets and privacy.

    The model is the last round's, or the last accepted one where a gate takes the last back.
    """
    last = chosen = step.round
    data = context.store.get(context.key(keys.model(last)))
    model = decode(data, kind="model")
    if context.params.aggregation.masked:
        collected = gather(step, context)
    else:
        collected = collect(step, context, "evaluate", keys.evaluation, check_evaluation)
    record = load_json(context, keys.record(last)) or {}
    measured = combined_metrics(context, collected.contributions)
    verdict = judge(model, measured, context)
    if verdict is not None and verdict.restored is not None:
        # The rows' owners measured the accepted model one round after it was made.
        chosen, model = verdict.accepted, verdict.restored
        data = context.store.get(context.key(keys.model(chosen)))
        measured = (load_json(context, keys.record(chosen + 1)) or {}).get("metrics", {})
    # Noised counts are a release like any other: the run's epsilon speaks of them too.
    paid = [u for u in collected.updates if u.receipt["events"].keys() - u.receipt["unaccounted"]]
    privacy = privacy_so_far(context, {"privacy": record.get("privacy", {})}, paid)
    result: dict[str, Any] = {
        "run": context.run,
        "federation": context.federation,
        "kind": context.params.model.kind,
        "strategy": context.params.model.chosen.strategy,
        "task": context.contract.task,
        "rounds": last,
        "stop": record.get("stop"),
        "model": keys.model(chosen),
        "model_digest": digest(data),
        "metrics": measured,
        "datasets": _datasets(context, last),
        "participants": model.meta.get("participants", {}),
        "missing": collected.missing,
        "privacy": privacy,
        "private": bool(privacy) and all(site["private"] for site in privacy.values()),
    }
    ref = orders.publish(context, keys.RESULT, canonical_json(result))
    lock.release(context.workspace, context.federation, context.run)
    return [ref]


def _datasets(context: RunContext, last: int) -> dict[str, str]:
    """Every dataset version that any round of the run used, by site."""
    found: dict[str, str] = {}
    for round in range(1, last + 1):
        found.update((load_json(context, keys.record(round)) or {}).get("datasets", {}))
    return dict(sorted(found.items()))
