"""A site's sums for private trees: gradients and Hessians over the leaves of random trees.

Each record's gradients and Hessians (of all classes) are clipped together to a norm and truncated
towards zero to whole steps of ``2^-20``; a record falls into one leaf of a tree.  Sums of whole numbers
below 2^53 are exact in float64, so that the sensitivity has no rounding in it
(:mod:`folkmoot.trees.private`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.features import feature_space
from folkmoot.params import Anonymisation
from folkmoot.plan import RunContext
from folkmoot.privacy.planned import COUNT_EXPONENT, Release
from folkmoot.trees.additive import linear_rows
from folkmoot.trees.private import CLIP, HESSIAN, LEAF_EXPONENT
from folkmoot.trees.private_splits import Grid, RandomTree, draw_round
from folkmoot.wire import Artefact
from site_tasks.home import SiteHome
from site_tasks.margins import margins
from site_tasks.prepared import Part, Prepared

__all__ = ["as_linear_rows", "clipped_derivatives", "label_sum", "leaf_sum", "tree_sum"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_BLOCK = 1 << 16
#: Keeps a record inside the norm; far above the rounding of float64.
SLACK = 1.0 - 2.0**-30
#: Sums of whole numbers below this are exact in float64.
EXACT = 2.0**53


def tree_sum(
    wanted: Release,
    round: int,
    prepared: Prepared,
    model: Artefact,
    context: RunContext,
    home: SiteHome,
) -> Integers:
    """What the round's release asks of the site's records, in whole steps; O(n · trees · depth)."""
    labels = prepared.labels("train")
    if wanted.kind == "labels":
        return label_sum(labels, context.contract)
    grid = Grid.of(context.contract, context.params)
    trees = draw_round(grid, context.params, round - 1)
    found = margins(model, prepared, "train", context, home)
    return leaf_sum(trees, prepared.matrix("train"), labels, found, context.contract)


def label_sum(labels: NDArray[Any], contract: Contract) -> Integers:
    """Counts of the classes; of numbers the count and the sum, from the middle of their bounds."""
    if contract.classes:
        counts = np.bincount(np.asarray(labels, np.int64), minlength=len(contract.classes))
        return counts.astype(np.int64) << COUNT_EXPONENT
    middle, half = _range(contract)
    z = np.clip((np.asarray(labels, np.float64) - middle) / half, -1.0, 1.0)
    steps = np.trunc(np.nan_to_num(z) * 2.0**COUNT_EXPONENT).astype(np.int64)
    return np.array([len(z) << COUNT_EXPONENT, int(steps.sum())], np.int64)


def leaf_sum(
    trees: Sequence[RandomTree],
    rows: NDArray[Any],
    labels: NDArray[Any],
    margin: NDArray[np.float32],
    contract: Contract,
) -> Integers:
    """Sums over leaves, tree by tree: per class the gradients, then the Hessians; O(n · trees · depth).

    Parameters
    ----------
    trees : sequence of RandomTree
        Of the round.
    rows : ndarray, shape (n, d)
        Encoded features; NaN where missing.
    labels : ndarray, shape (n,)
    margin : ndarray of float32, shape (n,) or (n, K)
        Under the incoming model.
    contract : Contract

    Returns
    -------
    ndarray of int64, shape (sum over trees of 2 · K · leaves,)
        In whole steps of ``2^-20``.
    """
    classes = len(contract.classes) if contract.task == "multiclass" else 1
    sums = [np.zeros((2 * classes, len(tree.leaves))) for tree in trees]
    if len(rows) * CLIP * 2.0**LEAF_EXPONENT >= EXACT:
        raise OverflowError("a sum of integers would leave the exact range of float64")
    for start in range(0, len(rows), _BLOCK):
        some = slice(start, start + _BLOCK)
        steps = clipped_derivatives(margin[some], labels[some], contract)
        x = np.asarray(rows[some], np.float32)
        for tree, total in zip(trees, sums, strict=True):
            places = tree.places(x)
            for k in range(2 * classes):
                total[k] += np.bincount(places, weights=steps[:, k], minlength=len(tree.leaves))
    return np.concatenate([total.ravel() for total in sums]).astype(np.int64)


def clipped_derivatives(margin: NDArray[Any], labels: NDArray[Any], contract: Contract) -> Floats:
    """Whole steps of each record's gradients and Hessians, shape (n, 2 K); O(n · K).

    The sum of squares of a row is at most ``(CLIP · 2^20)²``, whatever margins and labels are; a
    record that is not finite counts as zero.
    """
    with np.errstate(all="ignore"):
        g, h = _derivatives(np.asarray(margin, np.float64), labels, contract)
        both = np.hstack([g, h])
        length = np.sqrt(np.einsum("ij,ij->i", both, both))
        factor = np.minimum(1.0, CLIP / length) * SLACK * 2.0**LEAF_EXPONENT
        steps = np.trunc(both * factor[:, None])
    steps[~np.isfinite(steps).all(axis=1)] = 0.0
    # The last word, in whole numbers: what does not keep the bound does not count.
    kept = np.einsum("ij,ij->i", steps, steps) <= (CLIP * 2.0**LEAF_EXPONENT) ** 2
    return np.asarray(steps * kept[:, None], np.float64)


def _derivatives(margin: Floats, labels: NDArray[Any], contract: Contract) -> tuple[Floats, Floats]:
    """Gradients and Hessians of the loss by the margins, shape (n, K) each."""
    if contract.task == "regression":
        middle, half = _range(contract)
        bound = math.sqrt(CLIP**2 - HESSIAN**2)
        z = (margin - np.clip(np.asarray(labels, np.float64), middle - half, middle + half)) / half
        return np.clip(z, -bound, bound)[:, None], np.full((len(z), 1), HESSIAN)
    if contract.task == "multiclass":
        odds = np.exp(margin - margin.max(axis=1, keepdims=True))
        p = odds / odds.sum(axis=1, keepdims=True)
        g = p.copy()
        g[np.arange(len(g)), np.asarray(labels, np.int64)] -= 1.0
        return g, p * (1.0 - p)
    p = 0.5 * (1.0 + np.tanh(0.5 * margin))
    return (p - np.asarray(labels, np.float64))[:, None], (p * (1.0 - p))[:, None]


def _range(contract: Contract) -> tuple[float, float]:
    low, high = contract.label.bounds or (-1.0, 1.0)
    return (low + high) / 2, (high - low) / 2


class _LinearRows:
    """Rows of trees as those of a linear model, made slice by slice."""

    def __init__(
        self, matrix: NDArray[Any], contract: Contract, anonymisation: Anonymisation
    ) -> None:
        self._matrix, self._contract, self._anonymisation = matrix, contract, anonymisation

    def __len__(self) -> int:
        return len(self._matrix)

    def __getitem__(self, some: slice) -> Floats:
        return linear_rows(self._matrix[some], self._contract, self._anonymisation)


class _LinearView(Prepared):
    """Prepared rows under the features of a linear model."""

    context: RunContext

    def matrix(self, part: Part) -> Any:
        """Rows that are encoded as they are read."""
        params = self.context.params
        return _LinearRows(super().matrix(part), self.context.contract, params.anonymisation)


def as_linear_rows(prepared: Prepared, context: RunContext) -> Prepared:
    """What private training of the linear model behind ``private_additive`` reads."""
    own = {f.name: getattr(prepared, f.name) for f in fields(prepared)}
    space = feature_space(context.contract, context.params.anonymisation, "linear")
    view = _LinearView(**{**own, "features": space})
    object.__setattr__(view, "context", context)
    return view
