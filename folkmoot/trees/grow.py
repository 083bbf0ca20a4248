"""Trees that grow level by level from summed histograms: what is asked for, and what follows.

A :class:`Growing` is one boosting step on its way: one tree, or one per class, all at the same
level.  It is pure data: the coordinator publishes it with the global model, so that a site knows
from the model alone which histograms are wanted, and either side can go on after a crash.  Of two
children one is asked for; the other's histogram is what is left of their parent's, exactly, as all
numbers are whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.models.tree_format import Tree
from folkmoot.trees.booster import tree_of
from folkmoot.trees.cuts import Cuts
from folkmoot.trees.histograms import Grid
from folkmoot.trees.route import BY_SET, Route
from folkmoot.trees.split import LEAST_GAIN, Rules, Splits, best_splits, settle

__all__ = ["Columns", "Growing", "GrowingTree", "advance", "begin", "complete", "finished"]

Array = NDArray[Any]
_FREE = (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))


@dataclass(frozen=True)
class Columns:
    """Which features a node may use, and how.

    Parameters
    ----------
    monotone : tuple of int
        1, -1 or 0 per feature.
    interactions : tuple of frozenset of int
        Features that may stand on one path together; empty: all may.
    bytree, bylevel, bynode : float
        Shares of the features that are drawn, with a public seed.
    seed : int
    """

    monotone: tuple[int, ...]
    interactions: tuple[frozenset[int], ...] = ()
    bytree: float = 1.0
    bylevel: float = 1.0
    bynode: float = 1.0
    seed: int = 0

    def allowed(self, tree: int, level: int, node: int, path: Sequence[int]) -> NDArray[np.bool_]:
        """Features that a node may split on, shape (d,)."""
        chosen = np.arange(len(self.monotone))
        shares = ((self.bytree, (0,)), (self.bylevel, (1, level)), (self.bynode, (2, level, node)))
        for share, place in shares:
            if share < 1:
                draw = np.random.default_rng([self.seed, tree, *place])
                size = max(1, int(share * len(chosen)))
                chosen = np.sort(draw.choice(chosen, size, replace=False))
        found = np.zeros(len(self.monotone), bool)
        found[chosen] = True
        if self.interactions and path:
            used = set(path)
            may = used.union(*(group for group in self.interactions if used <= group))
            found &= np.isin(np.arange(len(found)), sorted(may))
        return found


@dataclass
class GrowingTree:
    """A tree on its way: parallel lists, one entry per node, children behind their parents."""

    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    default_left: list[int] = field(default_factory=list)
    #: Leaf value, learning rate included; of a split what it would be.
    value: list[float] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    #: Summed gradient and Hessian in whole steps.
    sums: list[list[int]] = field(default_factory=list)
    bounds: list[list[float]] = field(default_factory=list)
    root_gain: list[float] = field(default_factory=list)
    path: list[list[int]] = field(default_factory=list)
    #: Categories that go right, by node as text.
    codes: dict[str, list[int]] = field(default_factory=dict)
    #: Nodes of this level that are to be split, in order, as [node, sibling or -1, parent or -1].
    built: list[list[int]] = field(default_factory=list)

    def route(self, most: int) -> Route:
        """Arrays that lead rows to the nodes; ``most`` is the largest number of categories."""
        sets = np.zeros((len(self.left) if self.codes else 1, most), bool)
        for node, codes in self.codes.items():
            sets[int(node), codes] = True
        if len(sets) == 1 and self.codes:  # the kernel tells a tree with sets by its rows
            sets = np.vstack([sets, sets])
        integers = (np.asarray(v, np.int64) for v in (self.left, self.right, self.feature))
        left, right, feature = integers
        place = np.asarray(self.place, np.int64)
        return Route(left, right, feature, place, np.asarray(self.default_left, bool), sets)

    def add(self, sums: Sequence[int], bounds: Sequence[float], path: Sequence[int]) -> int:
        """A new leaf; returns its number."""
        self.left.append(-1)
        self.right.append(-1)
        self.feature.append(0)
        self.place.append(0)
        self.default_left.append(0)
        self.value.append(0.0)
        self.gain.append(0.0)
        self.root_gain.append(0.0)
        self.sums.append(list(sums))
        self.bounds.append(list(bounds))
        self.path.append(list(path))
        return len(self.left) - 1


@dataclass
class Growing:
    """One boosting step: its trees (one per class), the level that is asked for, who takes part."""

    step: int
    level: int
    trees: list[GrowingTree]
    sites: list[str] = field(default_factory=list)
    #: Round whose model asked for the roots.
    began: int = 0

    @property
    def wanted(self) -> list[tuple[int, int]]:
        """Tree and node of every histogram that sites are asked for, in order."""
        return [(k, built[0]) for k, tree in enumerate(self.trees) for built in tree.built]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; lists are shared, not copied, of which there may be thousands."""
        return {**vars(self), "trees": [dict(vars(tree)) for tree in self.trees]}

    @staticmethod
    def from_dict(values: Any) -> Growing:
        """Inverse of :meth:`to_dict`."""
        trees = [GrowingTree(**tree) for tree in values["trees"]]
        numbers = {name: int(values[name]) for name in ("step", "level", "began")}
        return Growing(trees=trees, sites=list(values["sites"]), **numbers)


def begin(step: int, classes: int, *, began: int = 0) -> Growing:
    """A step of which nothing is known: sites are asked for the roots' histograms and totals."""
    trees = []
    for _ in range(classes):
        tree = GrowingTree()
        tree.add((0, 0), _FREE, ())
        tree.built = [[0, -1, -1]]
        trees.append(tree)
    return Growing(step, 0, trees, began=began)


def complete(
    growing: Growing, sums: NDArray[np.int64], parents: NDArray[np.int64] | None
) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """Histograms of all nodes of the level, of what was asked for and their parents'; O(bins).

    Parameters
    ----------
    growing : Growing
    sums : ndarray of int64, shape (wanted, bins, 2)
        In the order of ``growing.wanted``.
    parents : ndarray of int64, shape (nodes of the level before, bins, 2), or None
        What this function gave for the level before; None at the root.

    Returns
    -------
    nodes : list of (int, int)
        Tree and node, in order.
    ndarray of int64, shape (nodes, bins, 2)
    """
    level: list[tuple[int, int, int, int]] = []
    at = 0
    for k, tree in enumerate(growing.trees):
        for node, sibling, parent in tree.built:
            level.append((k, node, at, -1))
            if sibling >= 0 and parents is not None:
                level.append((k, sibling, at, parent))
            at += 1
    level.sort()
    full = np.empty((len(level), *sums.shape[1:]), np.int64)
    for out, (_, _, asked, parent) in zip(full, level, strict=True):
        if parent < 0 or parents is None:
            out[...] = sums[asked]
        else:
            np.subtract(parents[parent], sums[asked], out=out)
    return [(k, node) for k, node, _, _ in level], full


def advance(
    growing: Growing,
    nodes: Sequence[tuple[int, int]],
    sums: NDArray[np.int64],
    cuts: Cuts,
    grid: Grid,
    rules: Rules,
    columns: Columns,
    eta: float,
    max_depth: int,
    totals: NDArray[np.int64] | None = None,
) -> Growing:
    """Split the nodes of a level; O(nodes · bins).

    Parameters
    ----------
    growing : Growing
        Changed in place and returned.
    nodes, sums
        From :func:`complete`.
    cuts, grid, rules, columns
        Public settings.
    eta : float
        Learning rate of the step.
    max_depth : int
    totals : ndarray of int64, shape (K, 2)
        Of the roots, at level 0.
    """
    units = grid.units
    rate = np.float32(eta)
    if totals is not None:
        free = np.full((len(totals), 2), _FREE, np.float32)
        weights, gains = settle(totals, free, units, rules)
        for k, tree in enumerate(growing.trees):
            tree.sums[0] = totals[k].tolist()
            tree.value[0], tree.root_gain[0] = float(weights[k] * rate), float(gains[k])
    trees = growing.trees
    first_tree = growing.step * len(trees)
    allowed = [
        columns.allowed(first_tree + k, growing.level, node, trees[k].path[node])
        for k, node in nodes
    ]
    own = np.asarray([trees[k].sums[n] for k, n in nodes], np.int64).reshape(-1, 2)
    free = np.asarray([trees[k].bounds[n] for k, n in nodes], np.float32).reshape(-1, 2)
    splits = best_splits(
        sums,
        own,
        cuts.first,
        cuts.categorical,
        np.asarray(allowed, bool).reshape(len(nodes), -1),
        np.asarray(columns.monotone, np.int64),
        free,
        np.asarray([trees[k].root_gain[n] for k, n in nodes], np.float32),
        units,
        rules,
    )
    # Sums of what goes left and right of every node, and both as leaves.
    ends = np.stack([splits.left, own - splits.left], axis=1)
    weights, gains = settle(ends.reshape(-1, 2), np.repeat(free, 2, axis=0), units, rules)
    values = (weights * rate).tolist()
    leaves, sides = gains.tolist(), ends.tolist()
    gamma = np.float32(rules.gamma)
    split = (splits.gain > LEAST_GAIN) & (splits.gain >= gamma) & (ends[:, :, 1] != 0).all(axis=1)
    children: list[list[list[int]]] = [[] for _ in trees]
    for s in np.flatnonzero(split).tolist():
        k, node = nodes[s]
        tree, own_leaves = trees[k], slice(2 * s, 2 * s + 2)
        feature = _note(tree, node, splits, s, cuts)
        path = [*tree.path[node], feature] if columns.interactions else []
        pair = [tree.add(side, tree.bounds[node], path) for side in sides[s]]
        for child, value, leaf in zip(pair, values[own_leaves], leaves[own_leaves], strict=True):
            tree.value[child], tree.root_gain[child] = value, leaf
        tree.left[node], tree.right[node] = pair
        if rules.constrained and columns.monotone[feature]:
            _keep_apart(tree, pair, weights[own_leaves], columns.monotone[feature])
        children[k].append([*pair, s])
    growing.level += 1
    deeper = growing.level < max_depth
    for tree, pairs in zip(trees, children, strict=True):
        tree.built = [asked for pair in pairs if (asked := _asked(tree, pair, units, rules))]
        if not deeper:
            tree.built = []
    return growing


def _note(tree: GrowingTree, node: int, splits: Splits, s: int, cuts: Cuts) -> int:
    """Write a node's split down; returns its feature."""
    feature, place = int(splits.feature[s]), int(splits.bin[s])
    if cuts.categorical[feature]:
        tree.codes[str(node)] = np.flatnonzero(splits.right_codes[s]).tolist()
        place = BY_SET
    tree.feature[node], tree.place[node], tree.gain[node] = feature, place, float(splits.gain[s])
    tree.default_left[node] = int(splits.default_left[s])
    return feature


def _keep_apart(
    tree: GrowingTree, pair: Sequence[int], weights: NDArray[np.float32], direction: int
) -> None:
    """Under a monotone constraint weights below two children are kept apart by their middle."""
    middle = float((weights[0] + weights[1]) / np.float32(2))
    left, right = (1, 0) if direction > 0 else (0, 1)
    tree.bounds[pair[0]][left] = middle
    tree.bounds[pair[1]][right] = middle


def finished(growing: Growing, cuts: Cuts) -> tuple[list[Tree], list[dict[str, list[float]]]]:
    """The step's trees, and per tree gain and cover of its nodes, from released sums alone."""
    trees, figures = [], []
    for tree in growing.trees:
        value = [
            tree.value[n] if tree.left[n] == -1 else _condition(tree, n, cuts)
            for n in range(len(tree.left))
        ]
        codes = {int(node): found for node, found in tree.codes.items()}
        trees.append(
            tree_of(
                np.asarray(tree.left),
                np.asarray(tree.right),
                np.asarray(tree.feature),
                np.asarray(value),
                default_left=np.asarray(tree.default_left),
                categories=codes,
            )
        )
        figures.append({"gain": list(tree.gain), "hessian": [float(s[1]) for s in tree.sums]})
    return trees, figures


def _condition(tree: GrowingTree, node: int, cuts: Cuts) -> float:
    if tree.place[node] == BY_SET:
        return 0.0
    return float(cuts.threshold(tree.feature[node], tree.place[node]))


def _asked(
    tree: GrowingTree, pair: Sequence[int], units: tuple[float, float], rules: Rules
) -> list[int] | None:
    """Which child's histogram is asked for: of the one with less in it, if both may be split."""
    left, right, parent = pair
    least = 2 * float(np.float32(rules.min_child_weight))
    able = [n for n in (left, right) if tree.sums[n][1] * units[1] >= least]
    if len(able) < 2:
        return [able[0], -1, -1] if able else None
    less = left if tree.sums[left][1] <= tree.sums[right][1] else right
    return [less, right if less == left else left, parent]
