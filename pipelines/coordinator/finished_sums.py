"""Sums of finished trees go: nobody asks for them again, and single sites' give rows back.

A tree is grown from all that its sites published since its root; once it stands, a run can be resumed,
audited and explained without them, from models and records, which hold the digests of all updates.  A
host calls this when a round is closed.  DVC's does not: what a stage published is its output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from folkmoot.errors import TransientError
from folkmoot.plan import RunContext, keys
from folkmoot.trees.options import SUMMED
from pipelines.coordinator.open_round import load_json

__all__ = ["clear"]


def clear(
    context: RunContext, round: int, record: Mapping[str, Any], say: Callable[[str], None]
) -> int:
    """Remove the sites' sums since a step began, where it ended with a round; O(sites) per round.

    A call that was cut off is made good by another one for the same round, as a run that is taken up
    again makes.

    Parameters
    ----------
    context : RunContext
        The run.
    round : int
        A round that is closed.
    record : mapping
        Its record.
    say : callable
        Told where the store keeps what it should remove: the run goes on, and ``folkmoot
        coordinator clean`` finds it later.

    Returns
    -------
    int
        Artefacts that were removed; 0 for other strategies, within a tree, and under
        ``model.trees.keep_sums``.
    """
    trees = context.params.model.trees
    summed = context.params.kind == "trees" and trees.strategy == SUMMED
    if not summed or trees.keep_sums or not _ended(record, round, context):
        return 0
    gone, members = 0, context.params.federation.members
    try:
        while round > 0:
            gone += context.store.clear(context.key(keys.update(round, s)) for s in members)
            round -= 1
            before = load_json(context, keys.record(round)) if round else None
            if before is None or _ended(before, round, context):
                break
    except TransientError as error:
        say(f"Sums of finished trees stay in the exchange store: {error}")
    return gone


def _ended(record: Mapping[str, Any], round: int, context: RunContext) -> bool:
    """Whether nothing that comes after a round rests on its sums: a step ended with it, or the run."""
    boosting = record.get("boosting")
    if boosting is None:
        return False
    over = record.get("stop") is not None or round == context.params.rounds
    return over or not boosting["level"]
