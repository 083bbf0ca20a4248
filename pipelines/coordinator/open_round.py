"""Open a run (name, params, contract and roster are fixed for it) and make its initial model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from folkmoot.contract import Contract
from folkmoot.errors import ProtocolError
from folkmoot.exchange import ArtifactRef, ExchangeStore
from folkmoot.identity import Roster
from folkmoot.opening import opening, same_settings
from folkmoot.params import Params
from folkmoot.plan import RunContext, Step, keys
from folkmoot.wire import canonical_json, encode
from pipelines.coordinator import anchors, orders
from pipelines.coordinator.aggregate import initialiser
from pipelines.coordinator.aggregate.secure_sum import gather
from pipelines.coordinator.collect import collect, fold
from pipelines.coordinator.fits import check_statistics

__all__ = ["initialise", "open_run", "run_name"]


def run_name(params: Params, contract: Contract, roster: Roster, store: ExchangeStore) -> str:
    """Name for `folkmoot run`: the unfinished run of the same settings, or the next new one.

    Equal params give ``<kind>-<digest>-<n>``; the highest n is resumed where it has no result and
    was opened with the same contract and roster: whoever mends those starts anew.
    """
    prefix = f"{params.kind}-{params.digest()[:8]}-"
    folder = f"{params.federation.name}/runs"
    taken = [name.rsplit("/", 1)[1] for name in store.list(folder)]
    numbers = [n.removeprefix(prefix) for n in taken if n.startswith(prefix)]
    last = max((int(n) for n in numbers if n.isdecimal()), default=0)
    name = f"{prefix}{last}"
    if last and store.find(f"{folder}/{name}/{keys.RESULT}") is None:
        opened = store.find(f"{folder}/{name}/{keys.RUN}")
        if opened is None or _same(opened, opening(name, params, contract, roster)):
            return name
    return f"{prefix}{last + 1}"


def open_run(
    params: Params,
    contract: Contract,
    roster: Roster,
    run: str,
    store: ExchangeStore,
    workspace: Path,
) -> RunContext:
    """Publish ``run.json``, or find it as it was published when the run was opened first.

    Raises
    ------
    ProtocolError
        ``protocol.unknown-site`` for a member that the roster does not list;
        ``protocol.conflict`` where the run was opened with other params.
    """
    for site in params.federation.members:
        roster.key(site)
    values = opening(run, params, contract, roster)
    known = replace(roster, keys=values["roster"])
    context = RunContext(run, params, contract, known, store, workspace)
    try:
        orders.publish(context, keys.RUN, canonical_json(values))
        anchors.at_opening(context)
    except ProtocolError as error:
        if error.code != "protocol.conflict":
            raise
        found = store.get(context.key(keys.RUN))
        if same_settings(found, values):  # opened by another version
            return context
        other = sorted({*_different("", json.loads(found), values)})
        raise ProtocolError(
            error.code,
            f"Run {run} of federation {params.federation.name} was opened with other settings: "
            f"{', '.join(other)}.",
            "Restore them to go on with it, or give the new run another name (--run).",
        ) from None
    return context


def _same(opened: bytes, wanted: dict[str, Any]) -> bool:
    """As `same_settings`; a run of a version too far away is another one."""
    try:
        return same_settings(opened, wanted)
    except ProtocolError:
        return False


def _different(key: str, one: Any, other: Any) -> Iterator[str]:
    """Keys of params that differ; of contract and roster the name alone."""
    if isinstance(one, dict) and isinstance(other, dict) and key not in {"contract", "roster"}:
        for name in {*one, *other} - ({"folkmoot", "defaults"} if not key else set()):
            inner = f"{key}.{name}".removeprefix(".").removeprefix("params.")
            yield from _different(inner, one.get(name), other.get(name))
    elif one != other:
        yield key


def initialise(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Round 0: the initial global model, scaled by the sites' summed statistics."""
    summed = context.params.aggregation.masked and any("/unmask/" in name for name in step.after)
    if summed:
        collected = gather(step, context)
    else:
        collected = collect(step, context, "encode", keys.statistics, check_statistics)
    initial = initialiser(context.params.model.kind)
    collected, model = fold(collected, lambda updates: initial(updates, context))
    meta = {
        **model.meta,
        "federation": context.federation,
        "run": context.run,
        "round": 0,
        "parents": {u.site: u.digest for u in collected.updates},
        "datasets": {u.site: u.meta["dataset"] for u in collected.updates},
    }
    if summed:  # nobody knows a single site's weight
        meta["participants"] = dict.fromkeys(meta["parents"])
    data = encode(replace(model, meta=meta))
    return [orders.publish(context, keys.model(0), data)]


def load_json(context: RunContext, key: str) -> dict[str, Any] | None:
    """A JSON artefact of the run, or None where it is not published yet."""
    data = context.store.find(context.key(key))
    if data is None:
        return None
    values: dict[str, Any] = json.loads(data)
    return values
