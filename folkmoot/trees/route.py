"""The way of a row through a tree by the bins it is in, level by level or to a finished tree's leaf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.trees.cuts import Cuts

__all__ = ["BY_SET", "Route", "route_of"]

#: ``place`` of a split by a set of categories.
BY_SET = -2


@dataclass(frozen=True)
class Route:
    """Arrays of a tree that lead a row to its node; one entry per node, -1 where it has no children."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    place: NDArray[np.int64]
    default_left: NDArray[np.bool_]
    #: Categories that go right, by node; one empty row where the tree has none.
    codes: NDArray[np.bool_]

    def extends(self, other: Route) -> bool:
        """Whether all splits of ``other`` are splits of this tree, too; O(nodes)."""
        inner = np.flatnonzero(other.left != -1)
        if len(self.left) < len(other.left):
            return False
        pairs = (
            (self.left, other.left),
            (self.right, other.right),
            (self.feature, other.feature),
            (self.place, other.place),
            (self.default_left, other.default_left),
        )
        if not all(np.array_equal(own[inner], their[inner]) for own, their in pairs):
            return False
        sets = inner[other.place[inner] == BY_SET]
        return not sets.size or np.array_equal(self.codes[sets], other.codes[sets])


def route_of(tree: Mapping[str, Any], cuts: Cuts, most: int) -> Route | None:
    """The way through a finished tree whose thresholds are edges of bins; O(nodes · log bins).

    Parameters
    ----------
    tree : dict
        As :func:`folkmoot.models.tree_format.parse_trees` gives it.
    cuts : Cuts
    most : int
        Largest number of bins of a feature.

    Returns
    -------
    Route or None
        None where bins do not say where a row goes: a threshold that is no edge, or one beyond
        which there may be rows in the same bin (the last edge of a feature, or below all of it).
    """
    left, right, feature = (
        np.asarray(tree[name], np.int64)
        for name in ("left_children", "right_children", "split_indices")
    )
    place = np.zeros(len(left), np.int64)
    codes = np.zeros((len(left) if tree["categories_nodes"] else 1, most), bool)
    for node in np.flatnonzero(left != -1):
        if tree["split_type"][node]:
            place[node] = BY_SET
            continue
        own = cuts.values[cuts.first[feature[node]] : cuts.first[feature[node] + 1]]
        threshold = np.float32(tree["split_conditions"][node])
        at = int(np.searchsorted(own, threshold))
        if at >= len(own) - 1 or own[at] != threshold:
            return None
        place[node] = at
    ends = np.cumsum(tree["categories_sizes"], dtype=np.int64)
    for node, size, end in zip(
        tree["categories_nodes"], tree["categories_sizes"], ends, strict=True
    ):
        codes[node, tree["categories"][end - size : end]] = True
    return Route(left, right, feature, place, np.asarray(tree["default_left"], bool), codes)
