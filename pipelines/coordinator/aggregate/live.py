"""The trees of a live session, which every site holds alike, join the global model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from folkmoot.errors import ProtocolError
from folkmoot.live.figures import NAMES, fit, wanted
from folkmoot.models.tree_format import Tree, TreeSpace, dump_trees, join_trees
from folkmoot.models.trees import outputs, tree_bytes
from folkmoot.plan import RunContext
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order
from pipelines.coordinator.aggregate.patience import cut_back, worse_for_long
from pipelines.coordinator.aggregate.trees import Arrays, checked_trees, progress

__all__ = ["aggregate"]


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> tuple[Arrays, dict[str, Any]]:
    """Append a session's trees to the global model; O(bytes of the model + sites · nodes).

    With ``early_stopping_rounds`` the incoming model is judged first; where it has been worse than an
    earlier one for long, that one stays, and the session's trees are dropped.

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
        As :func:`pipelines.coordinator.aggregate.trees.aggregate`, with ``gain`` and ``hessian`` of
        all nodes where the sites released them.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch``, naming the first site whose trees, gains or covers are not those of
        most sites.
    """
    updates = in_order(updates)
    space = TreeSpace.of(context.contract, context.params)
    count = context.params.model.trees.trees_per_round * outputs(previous.meta)
    whole = all("figures" in update.parts for update in updates)
    found = {u.site: _made(u, checked_trees(u, space, count)[0], whole) for u in updates}
    common = Counter(found.values()).most_common(1)[0][0]
    for site, made in found.items():
        if made != common:
            raise ProtocolError(
                "protocol.mismatch",
                f"Site {site} released other trees than the session of round {round} made.",
                "Find out why; whoever trained in a session holds the same trees.",
                site=site,
            )
    told = progress(previous, updates, context)
    if context.params.model.trees.early_stopping_rounds is not None:
        steps = int(previous.meta["trees"]) // outputs(previous.meta)
        status = dict(previous.meta.get("boosting") or {"best": None, "stop": None})
        if worse_for_long(updates, context, status, steps):
            kept, nodes, data = cut_back(previous, status["best"][0])
            status |= {"steps": status["best"][0], "stop": "early_stopping"}
            told |= {"trees": kept, "change": None, "boosting": status}
            names = NAMES if wanted(previous.arrays) else ()
            cut = {name: previous.arrays[name][:nodes] for name in names}
            return {"trees": np.frombuffer(data, np.uint8), **cut}, told
        told["boosting"] = {**status, "steps": steps + count // outputs(previous.meta)}
    trees, *figures = common
    data = join_trees(tree_bytes(previous), trees)
    told["trees"] = int(previous.meta["trees"]) + count
    return {"trees": np.frombuffer(data, np.uint8), **_joined(previous, figures)}, told


def _made(update: ReleasedUpdate, trees: list[Tree], figures: bool) -> tuple[bytes, ...]:
    """The trees as bytes and their checked figures, which sites of an older version do not send."""
    data = dump_trees(trees)
    if not figures:
        return (data,)
    arrays = update.parts["figures"].arrays
    if not fit(arrays, sum(len(tree["left_children"]) for tree in trees)):
        raise ProtocolError(
            "protocol.mismatch",
            f"Site {update.site} released gains and covers that do not fit its trees.",
            "Check that the site runs the same version of folkmoot, with the same params.",
            site=update.site,
        )
    return (data, *(arrays[name].tobytes() for name in NAMES))


def _joined(previous: Artefact, figures: list[bytes]) -> Arrays:
    """Figures of all trees; none any more where those of one session are not to be had."""
    if not figures or not wanted(previous.arrays):
        return {}
    return {
        name: np.concatenate([previous.arrays[name], np.frombuffer(data, np.float32)])
        for name, data in zip(NAMES, figures, strict=True)
    }
