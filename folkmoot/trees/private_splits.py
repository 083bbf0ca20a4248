"""Splits that no row had a say in: random ones on a public grid, from a seed that everybody knows.

The contract's bounds and categories give every feature a grid (:mod:`folkmoot.privacy.bins`).  A tree
takes one feature, or a few, and parts each into at most ``2^depth`` random groups: intervals between
edges, of which one is drawn per even stretch of the grid, or dealt categories.  Its leaves are the
product of the groups, and a record falls into exactly one of them.  Since the structure is
data-independent it costs nothing, and what remains to be learnt are sums over leaves (Maddock,
Cormode, Wang, Maple & Jha, CCS 2022, arXiv 2210.02910, "totally random" splits; with one feature per
tree the ensemble is a generalised additive model).

Missing values follow a random default direction at every node.  Draws come from raw bits of Philox
under SHA-256 of seed and step, so that sites and coordinator agree whatever numpy they run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.features import feature_space
from folkmoot.generalisation import is_categorical
from folkmoot.models.tree_format import Tree
from folkmoot.params import Params
from folkmoot.privacy.bins import public_edges
from folkmoot.trees.booster import leaves_of, tree_of

__all__ = ["Grid", "RandomTree", "draw", "draw_round"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Public cells of every feature of a tree model.

    Parameters
    ----------
    edges : tuple of ndarray or None
        Per feature the edges a threshold may lie on (float32), or None for a category's code.
    levels : tuple of int
        Number of public categories; 0 for a number.
    """

    edges: tuple[NDArray[np.float32] | None, ...]
    levels: tuple[int, ...]

    @staticmethod
    def of(contract: Contract, params: Params) -> Grid:
        """Grid of a contract's features; reads no data."""
        space = feature_space(contract, params.anonymisation, "trees")
        edges: list[NDArray[np.float32] | None] = []
        levels: list[int] = []
        for j, column in enumerate(contract.inputs):
            low, high = float(space.lower[j]), float(space.upper[j])
            if space.types[j] == "c":
                edges.append(None)
                levels.append(int(high) + 1)
            else:
                flag = is_categorical(column)  # a boolean
                found = np.array([0.5]) if flag else public_edges(low, high)
                edges.append(np.unique(found.astype(np.float32)))
                levels.append(0)
        return Grid(tuple(edges), tuple(levels))

    def __len__(self) -> int:
        return len(self.edges)


@dataclass(frozen=True)
class RandomTree:
    """One tree without leaves' values.

    Parameters
    ----------
    features : tuple of int
        What it splits on.
    tree : dict
        As it travels (:mod:`folkmoot.models.tree_format`); every leaf is 0.
    leaves : ndarray of int64
        Nodes that are leaves, ascending.
    """

    features: tuple[int, ...]
    tree: Tree
    leaves: Integers

    def places(self, rows: NDArray[np.float32]) -> Integers:
        """Position among ``leaves`` that each row falls into, shape (n,); O(n · depth)."""
        return np.searchsorted(self.leaves, leaves_of(self.tree, rows))

    def with_leaves(self, values: Floats) -> Tree:
        """The tree whose leaves are ``values``, in the order of ``leaves``."""
        conditions = np.array(self.tree["split_conditions"], np.float64)
        conditions[self.leaves] = values
        exact = [float(str(v)) for v in conditions.astype(np.float32)]
        return {**self.tree, "split_conditions": exact}


def draw_round(grid: Grid, params: Params, round: int) -> list[RandomTree]:
    """Trees of a round, from 1; ``model.trees.trees_per_round`` of them, on all features in turn."""
    trees = params.model.trees
    first = (round - 1) * trees.trees_per_round
    steps = range(first, first + trees.trees_per_round)
    return [draw(grid, trees.max_depth, trees.features_per_tree, trees.seed, s) for s in steps]


def draw(grid: Grid, depth: int, width: int, seed: int, step: int) -> RandomTree:
    """The random tree of a step; O(leaves).

    Parameters
    ----------
    grid : Grid
    depth : int
        Most splits on a path; shared evenly between the tree's features.
    width : int
        Features of the tree.
    seed, step : int
        Public.  Features come in turns: d trees in a row begin with d different ones.
    """
    d, width = len(grid), min(width, len(grid), depth)
    order = _order(_bits(seed, "order", step // d), d)
    bits = _Bits(_bits(seed, "tree", step))
    others = [j for j in bits.order(d) if j != order[step % d]]
    features = [int(order[step % d]), *map(int, others[: width - 1])]
    grown = _Grown()
    grown.node(_groups(grid, features, depth, bits), 0, None, bits)
    tree = grown.tree()
    leaves = np.flatnonzero(np.asarray(tree["left_children"]) == -1)
    return RandomTree(tuple(features), tree, leaves)


#: Per feature of a tree: its number, thresholds between groups or codes of each group.
_Groups = list[tuple[int, NDArray[np.float32] | None, list[list[int]]]]


def _groups(grid: Grid, features: Sequence[int], depth: int, bits: _Bits) -> _Groups:
    found: _Groups = []
    for number, j in enumerate(features):
        most = 2 ** (depth // len(features) + (number < depth % len(features)))
        edges = grid.edges[j]
        if edges is not None:
            found.append((j, edges[bits.spread(len(edges), most - 1)], []))
        else:
            dealt = bits.order(grid.levels[j])
            count = min(most, len(dealt))
            found.append(
                (j, None, [sorted(map(int, part)) for part in np.array_split(dealt, count)])
            )
    return found


class _Grown:
    """Nodes in the order in which they are made: a parent before its children."""

    def __init__(self) -> None:
        self.left: list[int] = []
        self.right: list[int] = []
        self.feature: list[int] = []
        self.value: list[float] = []
        self.default: list[bool] = []
        self.sets: dict[int, list[int]] = {}

    def node(self, groups: _Groups, at: int, span: tuple[int, int] | None, bits: _Bits) -> int:
        """A balanced tree over groups ``span`` of feature ``at``, then over the next features."""
        own = len(self.left)
        self.left.append(-1)
        self.right.append(-1)
        self.feature.append(0)
        self.value.append(0.0)
        self.default.append(False)
        while at < len(groups):
            j, edges, parts = groups[at]
            first, last = span or (0, len(parts) if edges is None else len(edges) + 1)
            if last - first > 1:
                break
            at, span = at + 1, None
        else:
            return own
        middle = (first + last) // 2
        self.feature[own], self.default[own] = j, bits.coin()
        if edges is None:
            self.sets[own] = sorted(code for part in parts[middle:last] for code in part)
        else:
            self.value[own] = float(edges[middle - 1])
        self.left[own] = self.node(groups, at, (first, middle), bits)
        self.right[own] = self.node(groups, at, (middle, last), bits)
        return own

    def tree(self) -> Tree:
        return tree_of(
            np.array(self.left),
            np.array(self.right),
            np.array(self.feature),
            np.array(self.value),
            default_left=np.array(self.default),
            categories=self.sets,
        )


class _Bits:
    """Draws from a stream of raw bits."""

    def __init__(self, source: np.random.Philox) -> None:
        self.source = source

    def order(self, n: int) -> Integers:
        """A permutation of n numbers."""
        return _order(self.source, n)

    def spread(self, n: int, count: int) -> Integers:
        """At most ``count`` of n numbers, ascending: one drawn from each of as many even stretches.

        Freely drawn edges leave wide groups by chance, in which a tree tells nothing apart.
        """
        count = min(count, n)
        ends = np.arange(count + 1, dtype=np.int64) * n // max(count, 1)
        drawn = np.asarray(self.source.random_raw(count), np.uint64)
        return ends[:-1] + (drawn % np.diff(ends).astype(np.uint64)).astype(np.int64)

    def coin(self) -> bool:
        return bool(int(self.source.random_raw()) >> 63)


def _order(source: np.random.Philox, n: int) -> Integers:
    return np.argsort(np.asarray(source.random_raw(n), np.uint64), kind="stable")


def _bits(seed: int, what: str, step: int) -> np.random.Philox:
    told = hashlib.sha256(f"folkmoot-trees\0{seed}\0{what}\0{step}".encode()).digest()
    return np.random.Philox(key=int.from_bytes(told[:16], "little"))
