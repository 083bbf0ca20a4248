"""Close a round: aggregate the released updates, judge, write the record.

The record holds no times, so that a crash between model and record changes nothing on the second
try: the same updates give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from folkmoot import metrics
from folkmoot.errors import RoundError
from folkmoot.exchange import ArtifactRef
from folkmoot.plan import RunContext, Step, keys
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import Event, from_dict
from folkmoot.privacy.training import schedule
from folkmoot.updates import ReleasedUpdate, SummedUpdate
from folkmoot.wire import Artefact, canonical_json, decode, encode
from pipelines.coordinator import anchors, lock, orders
from pipelines.coordinator.aggregate import aggregator
from pipelines.coordinator.aggregate.secure_sum import gather
from pipelines.coordinator.collect import Collected, collect, fold
from pipelines.coordinator.fits import check_update
from pipelines.coordinator.gate import judge
from pipelines.coordinator.open_round import load_json
from pipelines.coordinator.private_metrics import noised_metrics

__all__ = ["aggregate", "combined_metrics", "privacy_so_far"]


def aggregate(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Make the global model of a round and its record; O(sites x parameters)."""
    lock.touch(context.workspace, context.federation)
    round, strategy = step.round, context.params.model.chosen.strategy
    before = decode(context.store.get(context.key(keys.model(round - 1))), kind="model")
    if context.params.aggregation.masked:
        collected = gather(step, context)
    else:
        collected = collect(
            step, context, "train", lambda site: keys.update(round, site), check_update
        )

    def make(updates: Sequence[ReleasedUpdate]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        if not updates:
            return before.arrays, {}
        verdict = None
        if context.params.aggregation.defence.mode != "none":
            verdict = judge(before, combined_metrics(context, updates), context)
        if verdict is not None and verdict.restored is not None:
            return verdict.restored.arrays, {"gate": verdict.meta(), "change": None}
        arrays, changes = aggregator(strategy)(before, updates, context, round)
        return arrays, {**changes, **({"gate": verdict.meta()} if verdict is not None else {})}

    try:
        collected, (arrays, changes) = fold(collected, make)
    except np.linalg.LinAlgError:
        raise _diverged(round) from None
    meta = {**before.meta, **changes, **_lineage(context, round, collected)}
    meta["calm"] = _calm(before.meta, changes, context)
    _finite(arrays, changes, round)
    data = encode(Artefact("model", meta, arrays))
    anchors.after_round(step, context)
    model = orders.publish(context, keys.model(round), data)
    record = _record(context, round, collected, meta, model)
    return [model, orders.publish(context, keys.record(round), canonical_json(record))]


def combined_metrics(context: RunContext, updates: Sequence[ReleasedUpdate]) -> dict[str, Any]:
    """Metrics overall (from pooled counts) and per site, from the ``evaluation`` parts.

    A sum under masks has no figures of single sites.
    """
    if any(isinstance(u, SummedUpdate) for u in updates):
        own = [(u, u.parts["evaluation"].arrays) for u in updates if "evaluation" in u.parts]
        if not own:
            return {}
        if context.params.privacy.clipping == "record":
            return {**noised_metrics(context.contract, {"*": own[0][1]}), "sites": {}}
        whole = metrics.combine([counts for _, counts in own])  # of groups, or of all
        return {"overall": metrics.metrics(context.contract.task, whole), "sites": {}}
    task = context.contract.task
    counts = {u.site: u.parts["evaluation"].arrays for u in updates if "evaluation" in u.parts}
    if not counts:
        return {}
    if context.params.privacy.clipping == "record":
        return noised_metrics(context.contract, counts)
    pooled = metrics.combine([counts[site] for site in sorted(counts)])
    return {
        "overall": metrics.metrics(task, pooled),
        "sites": {site: metrics.metrics(task, counts[site]) for site in sorted(counts)},
    }


def _lineage(context: RunContext, round: int, collected: Collected) -> dict[str, Any]:
    return {
        "federation": context.federation,
        "run": context.run,
        "round": round,
        # Under masks nobody knows a single site's weight.
        "participants": {
            u.site: None if collected.summed else u.parts["update"].weight
            for u in collected.updates
        },
        "parents": {u.site: u.digest for u in collected.updates},
        "datasets": {u.site: u.meta["dataset"] for u in collected.updates},
    }


def _calm(before: Mapping[str, Any], changes: Mapping[str, Any], context: RunContext) -> int:
    """Rounds in a row whose change stayed below the tolerance."""
    change = changes.get("change")
    tolerance = context.params.model.chosen.early_stopping.tolerance
    if tolerance == 0 or change is None or change >= tolerance:
        return 0
    return int(before.get("calm", 0)) + 1


def _record(
    context: RunContext,
    round: int,
    collected: Collected,
    meta: Mapping[str, Any],
    model: ArtifactRef,
) -> dict[str, Any]:
    previous = load_json(context, keys.record(round - 1)) if round > 1 else None
    privacy = privacy_so_far(context, previous, collected.updates)
    evaluated = combined_metrics(context, collected.contributions)
    return {
        "round": round,
        "participants": meta["participants"],
        "missing": collected.missing,
        "datasets": meta["datasets"],
        "updates": meta["parents"],
        "model": model.digest,
        "change": meta.get("change"),
        "metrics_round": round - 1 if evaluated else None,
        "metrics": evaluated,
        "privacy": privacy,
        "stop": _stop(context, meta, privacy, collected.updates),
        **_defence(context, round, meta, evaluated),
        **({"boosting": meta["boosting"]} if "boosting" in meta else {}),
        **({"secure": collected.report} if collected.summed else {}),
    }


def _defence(
    context: RunContext, round: int, meta: Mapping[str, Any], evaluated: Mapping[str, Any]
) -> dict[str, Any]:
    """What was found out about hostile updates, and the mode that traded privacy against it."""
    defence = context.params.aggregation.defence
    if defence.mode == "none":
        return {}
    found: dict[str, Any] = {
        "mode": defence.mode,
        "trade": defence.trade,
        "standing": meta.get("standing", {}),
    }
    if evaluated and "gate" in meta:
        found["rise"] = meta["gate"]["rise"]
        taken_back = meta["gate"]["accepted"] != round - 1
        found["taken_back"] = round - 1 if taken_back else None
    return {"defence": found}


def privacy_so_far(
    context: RunContext, previous: Mapping[str, Any] | None, updates: Sequence[ReleasedUpdate]
) -> dict[str, Any]:
    """Per site, the events of all releases so far, each with its count, and their epsilon.

    Counts keep a record as small in the last round as in the first; O(sites x distinct events).
    """
    settings = context.params.privacy
    result: dict[str, Any] = dict(previous["privacy"]) if previous else {}
    for update in updates:
        counts = _counts(result.get(update.site, {}).get("events", []))
        for event in _answers_for(update):
            counts[event] = counts.get(event, 0) + 1
        spent, method = epsilon(counts, settings.delta)
        result[update.site] = {
            "mechanism": settings.mechanism,
            "epsilon": spent if np.isfinite(spent) else None,
            "delta": settings.delta,
            "accountant": method,
            "private": bool(update.receipt["private"]),
            "events": [{**event.to_dict(), "count": n} for event, n in counts.items()],
        }
    return result


def _answers_for(update: ReleasedUpdate) -> list[Event]:
    """Events of a release that epsilon speaks of: all that were charged, and its update's own."""
    receipt = update.receipt
    return [
        from_dict(event)
        for name, event in sorted(receipt["events"].items())
        if name == "update" or name not in receipt["unaccounted"]
    ]


def _counts(events: Sequence[Mapping[str, Any]]) -> dict[Event, int]:
    return {from_dict({k: v for k, v in e.items() if k != "count"}): e["count"] for e in events}


def _stop(
    context: RunContext,
    meta: Mapping[str, Any],
    privacy: Mapping[str, Any],
    updates: Sequence[ReleasedUpdate],
) -> str | None:
    if context.params.privacy.clipping == "record":
        ended = meta["round"] == schedule(context.params, context.contract).rounds
        return "schedule" if ended and meta["round"] < context.params.model.rounds else None
    if "boosting" in meta:
        return str(meta["boosting"]["stop"]) if meta["boosting"]["stop"] else None
    if meta["calm"] >= context.params.model.chosen.early_stopping.patience:
        return "converged"
    settings = context.params.privacy
    if settings.mechanism == "gaussian" and settings.epsilon is not None:
        asked = _answers_for(updates[0]) if updates else []  # the plan asks the same of each
        for site in privacy.values():
            counts = _counts(site["events"])
            for event in asked:
                counts[event] = counts.get(event, 0) + 1
            if epsilon(counts, settings.delta)[0] > settings.epsilon:
                return "budget"
    return None


def _finite(arrays: Mapping[str, Any], changes: Mapping[str, Any], round: int) -> None:
    numbers = [np.asarray(value) for value in changes.values() if isinstance(value, float)]
    for array in (*arrays.values(), *numbers):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _diverged(round)


def _diverged(round: int) -> RoundError:
    return RoundError(
        "round.diverged",
        f"The global model of round {round} is not finite.",
        "Lower model.linear.learning_rate or server_learning_rate, or raise model.linear.l2.",
    )
