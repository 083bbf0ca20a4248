"""A run's secure sums as its plan has them: which there are, their set-up, their limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.features import feature_space
from folkmoot.generalisation import bounds_of
from folkmoot.plan import RunContext, Step, keys
from folkmoot.secure import lists
from folkmoot.secure.graph import Neighbours
from folkmoot.secure.groups import groups_of
from folkmoot.secure.layout import Limits
from folkmoot.secure.session import Session
from folkmoot.wire import canonical_json, digest

if TYPE_CHECKING:
    from folkmoot.identity import Roster

__all__ = [
    "SetUp",
    "groups_in",
    "index_of",
    "limits_of",
    "session_of",
    "set_up_of",
    "stage_of",
    "units_of",
]


@dataclass(frozen=True)
class SetUp:
    """The public outcome of a run's set-up."""

    listed: bytes
    graph: Neighbours
    members_list: bytes
    members: frozenset[str]


def session_of(context: RunContext) -> Session:
    """Facts of the run that every message of its secure sums is bound to.

    There is a sum of what sites say about levels where they settle on them, one of statistics before
    the first round, one per round, one of the last evaluation.
    """
    if "secure.session" not in context.cache:
        aggregation, rounds = context.params.aggregation, context.params.rounds
        sums = (
            *(((0, "levels"),) if _agrees(context) else ()),
            (0, "statistics"),
            *((round, "train") for round in range(1, rounds + 1)),
            (rounds + 1, "evaluate"),
        )
        rates = None
        if aggregation.colluding is not None and aggregation.failing is not None:
            rates = (aggregation.colluding, aggregation.failing)
        context.cache["secure.session"] = Session(
            context.federation,
            context.run,
            _plan(context),
            sums,
            aggregation.threshold,
            rates,
            aggregation.protection == "ckks",
        )
    session: Session = context.cache["secure.session"]
    return session


def _plan(context: RunContext) -> str:
    """Digest of what decides on contributions, as this party was given it: params, contract, keys."""
    roster: Roster = context.roster
    sections = {"data", "anonymisation", "model", "privacy", "aggregation"}
    if context.params.statistics.active:
        sections.add("statistics")
    params = context.params.stated(include=sections)
    params.get("anonymisation", {}).pop("settled", None)  # one plan before and after the agreement
    values = {
        "params": params,
        "quorum": context.params.federation.required,
        "contract": context.contract.digest(),
        "keys": {site: roster.keys[site] for site in context.params.federation.members},
    }
    return digest(canonical_json(values))


def index_of(step: Step, context: RunContext) -> int:
    """Place of the sum that a step belongs to."""
    if step.name.startswith("agree/"):
        return 0
    before = 1 if _agrees(context) else 0
    last = context.params.rounds + 1
    return before + (last if step.name.startswith("final/") else step.round)


def _agrees(context: RunContext) -> bool:
    return context.params.anonymisation.recoding == "agreed"


def stage_of(step: Step) -> str:
    """Folder of the sum's messages: ``round-003``, ``final``."""
    return step.name.partition("/")[0]


def set_up_of(context: RunContext) -> SetUp:
    """The set-up as the coordinator published it, checked; raises as the functions of `setup`."""
    if "secure.set-up" not in context.cache:
        session = session_of(context)
        listed = context.store.get(context.key(keys.SECURE_KEYS))
        graph = lists.neighbours(session, listed)
        members_list = context.store.get(context.key(keys.SECURE_MEMBERS))
        members = lists.open_members(members_list, session, listed, graph)
        context.cache["secure.set-up"] = SetUp(listed, graph, members_list, members)
    found: SetUp = context.cache["secure.set-up"]
    return found


def groups_in(step: Step, context: RunContext) -> tuple[tuple[str, ...], ...] | None:
    """Groups whose contributions to a step are summed apart; None where all are one sum."""
    defence = context.params.aggregation.defence
    if defence.mode != "grouped" or step.round < 1 or step.name.startswith("final/"):
        return None
    own = set_up_of(context)
    return groups_of(digest(own.listed), own.members, defence.groups or 1)


def limits_of(context: RunContext) -> Limits:
    """Bounds of contributions, from params alone."""
    aggregation, privacy = context.params.aggregation, context.params.privacy
    rows = float(aggregation.rows_limit)
    value = aggregation.value_limit
    if privacy.mechanism == "clip":
        value = min(value, privacy.clip_norm * (1 + 2.0**-20))
    # Every weight is one and every value clipped: a step of this part of the clip norm adds less to a
    # mean than float32 does, and 32 bits have it for hundreds of sites.
    narrow = privacy.mechanism == "clip" and aggregation.weighting == "uniform"
    fine = value * 2.0**-22 if narrow and aggregation.protection == "masks" else None
    return Limits(
        step=fine,
        sites=len(context.params.federation.members),
        value=value,
        weight=1.0
        if aggregation.weighting == "uniform"
        else min(rows, aggregation.defence.weight_limit or rows),
        rows=rows,
    )


def units_of(context: RunContext) -> Mapping[str, NDArray[np.int64]]:
    """Powers of two that bound what one row adds to a statistic, from the contract's bounds.

    Real sums of statistics then keep their resolution whatever the unit of a column is.
    """
    if "secure.units" not in context.cache:
        contract, params = context.contract, context.params
        space = feature_space(contract, params.anonymisation, params.model.kind)
        half = _exponents((space.upper - space.lower) / 2)
        units: dict[str, NDArray[np.int64]] = {"sum": half, "square": 2 * half}
        units |= {"weight": np.zeros(1, np.int64)}
        if not contract.classes:
            lower, upper = bounds_of(contract.label)
            one = _exponents(np.array([(upper - lower) / 2]))
            units |= {"label_sum": one, "label_square": 2 * one}
            # Held-out errors: predictions may lie far outside of the label's range.
            far = one + math.ceil(math.log2(params.aggregation.value_limit))
            units |= {"squared_error": 2 * far, "absolute_error": far, "label": one}
        context.cache["secure.units"] = units
    found: Mapping[str, NDArray[np.int64]] = context.cache["secure.units"]
    return found


def _exponents(bounds: NDArray[Any]) -> NDArray[np.int64]:
    """Smallest powers of two that are not below the bounds."""
    safe = np.where(bounds > 0, bounds, 1.0)
    return np.ceil(np.log2(safe)).astype(np.int64)
