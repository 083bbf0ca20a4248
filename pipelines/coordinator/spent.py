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

__all__ = ["clear"]


def clear(
    context: RunContext, round: int, record: Mapping[str, Any], say: Callable[[str], None]
) -> int:
    """Remove the sites' sums up to a round, where a step ended with it; O(sites) per round.

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
    boosting = record.get("boosting")
    if not summed or trees.keep_sums or boosting is None or boosting["level"]:
        return 0
    gone, members = 0, context.params.federation.members
    try:
        # Down to where the last step ended, or to where an earlier one was cut off while it cleared.
        while round > 0 and (
            some := context.store.clear(context.key(keys.update(round, s)) for s in members)
        ):
            gone, round = gone + some, round - 1
    except TransientError as error:
        say(f"Sums of finished trees stay in the exchange store: {error}")
    return gone
