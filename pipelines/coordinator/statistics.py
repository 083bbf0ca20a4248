"""The coordinator's steps of a run of statistics: begin, pass on, tally, conclude.

What the run has found so far stands in the records of its rounds; the state that a round leaves for the
next (``round-003/model``) holds the intervals in which quantiles are looked for, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError, RoundError
from folkmoot.exchange import ArtifactRef
from folkmoot.identity import verify
from folkmoot.plan import RunContext, Step, keys
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import Event, from_dict
from folkmoot.secure import psi
from folkmoot.statistics import answers, noise
from folkmoot.statistics.overlap import padded, shift
from folkmoot.statistics.questions import numeric, parts_of, start
from folkmoot.statistics.shared import AREA_BITS, bin_edges, figures
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact, canonical_json, decode, encode
from pipelines.coordinator import anchors, lock, orders
from pipelines.coordinator.aggregate.secure_sum import gather
from pipelines.coordinator.collect import Collected, collect
from pipelines.coordinator.fits import check_answers
from pipelines.coordinator.open_round import load_json

__all__ = ["begin", "conclude", "relay", "tally"]

Whole = NDArray[np.int64]


def begin(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Who takes part, and where quantiles are looked for first: the public bounds."""
    collected = collect(step, context, "encode", keys.statistics, check_answers)
    intervals = start(context.params, context.contract)
    meta = {
        "parents": {u.site: u.digest for u in collected.updates},
        "datasets": {u.site: u.meta["dataset"] for u in collected.updates},
    }
    return [_state(context, 0, intervals, meta)]


def relay(step: Step, context: RunContext) -> list[ArtifactRef]:
    """List the sites whose boxes are there, with the digest of each; raises as `collect`."""
    lock.touch(context.workspace, context.federation)
    task = step.after[0].split("/")[1]
    collected = collect(
        step, context, task, lambda site: keys.letters(step.round, site), check_answers
    )
    listed = {
        "federation": context.federation,
        "run": context.run,
        "round": step.round,
        "sites": {update.site: update.digest for update in collected.updates},
    }
    return [orders.publish(context, step.outputs[0], canonical_json(listed))]


def tally(step: Step, context: RunContext) -> list[ArtifactRef]:
    """What a round found, its record, and the intervals of the next round of quantiles."""
    lock.touch(context.workspace, context.federation)
    round, params = step.round, context.params
    kind = params.statistics.stages(noised=params.privacy.private)[round - 1]
    before = decode(context.store.get(context.key(keys.model(round - 1))), kind="model")
    intervals = np.asarray(before.arrays["intervals"])
    found, collected, after = {"sum": _sums, "overlap": _overlaps, "compute": _computed}[kind](
        step, context, intervals
    )
    anchors.after_round(step, context)
    stop = None
    if kind == "sum" and (after == intervals).all():
        stop = "resolved"
    # Without digests of releases, which hold fresh randomness: the same on every host.
    state = _state(context, round, after, {})
    previous = load_json(context, keys.record(round - 1)) if round > 1 else None
    record = {
        "round": round,
        "kind": kind,
        "participants": dict.fromkeys(u.site for u in collected.updates),
        "missing": collected.missing,
        "datasets": {u.site: u.meta["dataset"] for u in collected.updates},
        "updates": {u.site: u.digest for u in collected.updates},
        "model": state.digest,
        "change": None,
        "metrics_round": None,
        "metrics": {},
        "privacy": _privacy(context, previous, collected.updates),
        "answers": found,
        "stop": stop,
        **({"secure": collected.report} if collected.summed else {}),
    }
    return [state, orders.publish(context, keys.record(round), canonical_json(record))]


def conclude(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Write ``final/result.json``: all answers, who took part, and what it cost."""
    last, found, datasets = step.round, dict[str, Any](), dict[str, str]()
    records = [load_json(context, keys.record(round)) or {} for round in range(1, last + 1)]
    for record in records:
        found.update(record["answers"])
        datasets.update(record["datasets"])
    record = records[-1]
    privacy = record["privacy"]
    result = {
        "run": context.run,
        "federation": context.federation,
        "kind": "statistics",
        "strategy": "statistics",
        "task": context.contract.task,
        "rounds": last,
        "stop": record["stop"],
        "model": keys.model(last),
        "model_digest": record["model"],
        "metrics": {"overall": {}, "sites": {}},
        "statistics": found,
        "datasets": dict(sorted(datasets.items())),
        "participants": {r["kind"]: sorted(r["participants"]) for r in records},
        "missing": {site: code for r in records for site, code in r["missing"].items()},
        "privacy": privacy,
        "private": bool(privacy) and all(site["private"] for site in privacy.values()),
    }
    ref = context.store.put(context.key(keys.RESULT), canonical_json(result))
    lock.release(context.workspace, context.federation, context.run)
    return [ref]


# Rounds -------------------------------------------------------------------------------------------

Found = tuple[dict[str, Any], Collected, NDArray[np.float64]]


def _sums(step: Step, context: RunContext, intervals: NDArray[np.float64]) -> Found:
    params, contract = context.params, context.contract
    if params.aggregation.masked:
        collected = gather(step, context)
    else:
        collected = collect(
            step, context, "statistics", lambda s: keys.update(step.round, s), check_answers
        )
    parts = parts_of(params, contract, step.round)
    noised = noise.releases(params, contract)
    sums: dict[str, Whole] = {}
    for part in parts:
        arrays = [
            np.asarray(u.parts[part.name].arrays["counts"]).astype(np.int64)
            for u in collected.contributions
        ]
        sums[part.name] = np.sum(arrays, axis=0, dtype=np.int64)
        if sums[part.name].shape != (part.size,):
            raise _odd("a sum has not the length that the contract gives")
        if not noised and part.name != "moments.sum" and (sums[part.name] < 0).any():
            raise _odd("a sum counts fewer rows than none")
    deviations = {
        part.name: noise.total_deviation(params, contract, part, len(collected.updates))
        for part in parts
    }
    exponents = {part.name: part.exponent for part in parts}
    found = answers.answers(
        params, contract, sums, exponents, deviations, intervals, len(collected.updates)
    )
    after = intervals
    if "quantiles" in sums:
        after = answers.narrower(params, contract, sums, intervals)
    return found, collected, after


def _overlaps(step: Step, context: RunContext, intervals: NDArray[np.float64]) -> Found:
    """Sizes of all pairs whose two sites answered."""
    sent, params = _senders(step, context, "blind"), context.params
    size, sets = padded(params), dict[str, Mapping[str, NDArray[np.uint8]]]()
    missing = dict(sent.missing)
    for site in [update.site for update in sent.updates]:
        data = context.store.find(context.key(keys.answer(f"round-{step.round:03d}", site)))
        if data is None:
            missing[site] = "protocol.missing"
            continue
        try:
            sets[site] = _signed(data, context, step, site, "overlap", "reblind").arrays
        except ProtocolError as error:
            missing[site] = error.code
    names = sorted(sets)
    if len(names) < max(2, step.quorum or 0):
        raise RoundError(
            "round.quorum",
            f"{step.name}: {len(names)} sites answered; missing: {', '.join(sorted(missing))}.",
            "See each missing site's task for its error, then run again: finished steps are kept.",
        )
    found = []
    event, scale = noise.overlap_event(params), params.statistics.overlap_epsilon
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            pair = [sets[other].get(one), sets[one].get(other)]
            if any(a is None or a.shape != (size, psi.DIGEST) for a in pair):
                raise _odd(f"the sets of {one} and {other} have not the public size")
            counted = psi.intersection_size(*[np.asarray(a) for a in pair])
            entry: dict[str, Any] = {"sites": [one, other], "people": counted - 2 * shift(params)}
            if event is not None and scale is not None:
                # Two discrete Laplace numbers of scale 1/epsilon.
                r = math.exp(-scale)
                entry["noise"] = math.sqrt(2 * 2 * r) / (1 - r)
            elif 0 < entry["people"] < params.statistics.minimum_cell:
                entry["people"] = None
            found.append(entry)
    updates = [update for update in sent.updates if update.site in sets]
    return {"overlap": found}, Collected(updates, missing, sent.required), intervals


def _computed(step: Step, context: RunContext, intervals: NDArray[np.float64]) -> Found:
    """What three computing sites opened, if they agree."""
    sent, said = _senders(step, context, "share"), []
    for site in sorted(context.params.statistics.compute):
        data = context.store.get(context.key(keys.answer(f"round-{step.round:03d}", site)))
        meta = _signed(data, context, step, site, "computed", "computed").meta
        said.append((meta.get("opened"), meta.get("senders")))
    names = sorted(update.site for update in sent.updates)
    if any(one != said[0] for one in said) or said[0][1] != names:
        raise _odd("the three computing sites do not say the same")
    opened, columns = said[0][0], {c.name: c for c in numeric(context.params, context.contract)}
    planned = figures(context.params, context.contract)
    if not isinstance(opened, list) or len(opened) != len(planned):
        raise _odd("the computing sites opened other figures than were asked for")
    few = f"fewer than {context.params.statistics.minimum_cell} rows"
    found: dict[str, Any] = {}
    for figure, value in zip(planned, opened, strict=True):
        most = 2**AREA_BITS if figure.kind == "auc" else figure.bins - 1
        if value is not None and not (type(value) is int and 0 <= value <= most):
            raise _odd("the computing sites opened a figure that cannot be")
        column = columns[figure.column]
        if value is None:
            entry: dict[str, Any] = {"withheld": few}
        elif figure.kind == "auc":
            entry = {"auc": value / 2**AREA_BITS, "score": column.name}
        else:
            edges = bin_edges(column, figure.bins)
            low, high = float(edges[value]), float(edges[value + 1])
            entry = {"low": low, "high": high, "value": (low + high) / 2}
        if figure.kind == "auc":
            found["auc"] = entry
        else:
            found.setdefault("median", {})[column.name] = entry
    return found, sent, intervals


def _senders(step: Step, context: RunContext, task: str) -> Collected:
    """The releases that the round's list names."""
    listed = load_json(context, keys.survivors(f"round-{step.round:03d}")) or {}
    names = [f"round-{step.round:03d}/{task}/{site}" for site in context.params.federation.members]
    wanted = Step(step.name, step.body, step.place, step.round, tuple(names), quorum=1)
    sent = collect(wanted, context, task, lambda s: keys.letters(step.round, s), check_answers)
    updates = [u for u in sent.updates if listed.get("sites", {}).get(u.site) == u.digest]
    missing = {u.site: "protocol.missing" for u in sent.updates if u not in updates}
    return Collected(updates, {**sent.missing, **missing}, sent.required)


def _signed(
    data: bytes, context: RunContext, step: Step, site: str, kind: str, purpose: str
) -> Artefact:
    what = f"the {purpose} message of site {site}"
    found = decode(verify(data, context.roster.key(site), what=what), kind=kind)
    expect = {
        "federation": context.federation,
        "run": context.run,
        "round": step.round,
        "purpose": purpose,
        "site": site,
    }
    if any(found.meta.get(key) != value for key, value in expect.items()):
        raise ProtocolError(
            "protocol.mismatch",
            f"The {purpose} message of site {site} is that of another run or round.",
            "Treat it as replayed; run the site's step again.",
            site=site,
        )
    return found


def _state(
    context: RunContext, round: int, intervals: NDArray[np.float64], more: Mapping[str, Any]
) -> ArtifactRef:
    meta = {
        "federation": context.federation,
        "run": context.run,
        "round": round,
        "kind": "statistics",
        **more,
    }
    data = encode(Artefact("model", meta, {"intervals": intervals}))
    return orders.publish(context, keys.model(round), data)


def _privacy(
    context: RunContext, previous: Mapping[str, Any] | None, updates: Sequence[ReleasedUpdate]
) -> dict[str, Any]:
    """Per site, the events of all releases so far, each with its count, and their epsilon."""
    settings = context.params.privacy
    result: dict[str, Any] = dict(previous["privacy"]) if previous else {}
    for update in updates:
        counts: dict[Event, int] = {}
        for entry in result.get(update.site, {}).get("events", []):
            event = from_dict({k: v for k, v in entry.items() if k != "count"})
            counts[event] = entry["count"]
        for _, values in sorted(update.receipt["events"].items()):
            event = from_dict(values)
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


def _odd(what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.mismatch",
        f"The round cannot be closed: {what}.",
        "Check that all sites run the same version of folkmoot, params and contract.",
    )
