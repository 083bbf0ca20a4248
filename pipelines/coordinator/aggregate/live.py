"""The trees of a live session, which every site holds alike, join the global model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from folkmoot.errors import ProtocolError
from folkmoot.models.tree_format import TreeSpace, dump_trees, join_trees
from folkmoot.models.trees import outputs, tree_bytes
from folkmoot.plan import RunContext
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order
from pipelines.coordinator.aggregate.trees import Arrays, checked_trees, progress

__all__ = ["aggregate"]


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> tuple[Arrays, dict[str, Any]]:
    """Append a session's trees to the global model; O(bytes of the model + sites · nodes).

    Parameters
    ----------
    previous : Artefact
        Global model before the round.
    updates : sequence of ReleasedUpdate
        Each holds the part ``update`` with the same ``trees_per_round`` trees per class.
    context, round
        The run, and the round that is closed.

    Returns
    -------
    arrays, changes
        As :func:`pipelines.coordinator.aggregate.trees.aggregate`.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch``, naming the first site whose trees are not those of most sites.
    """
    updates = in_order(updates)
    space = TreeSpace.of(context.contract, context.params)
    count = context.params.model.trees.trees_per_round * outputs(previous.meta)
    found = {u.site: dump_trees(checked_trees(u, space, count)[0]) for u in updates}
    common = Counter(found.values()).most_common(1)[0][0]
    for site, trees in found.items():
        if trees != common:
            raise ProtocolError(
                "protocol.mismatch",
                f"Site {site} released other trees than the session of round {round} made.",
                "Find out why; whoever trained in a session holds the same trees.",
                site=site,
            )
    data = join_trees(tree_bytes(previous), common)
    return {"trees": np.frombuffer(data, np.uint8)}, {
        "trees": int(previous.meta["trees"]) + count,
        **progress(previous, updates, context),
    }
