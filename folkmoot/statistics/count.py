"""A site's whole numbers: columns in, one int64 vector per part out.

Pure functions over arrays, the same for a test on pooled rows: what they return for the rows of all
sites together is the sum of what they return for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column
from folkmoot.generalisation import bounds_of
from folkmoot.statistics.questions import BRANCHES, edges_of, tree_levels

__all__ = [
    "counts_by_category",
    "histograms",
    "leave_out_small",
    "moments",
    "ranks",
    "tree",
]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def counts_by_category(codes: Sequence[NDArray[np.int32]], sizes: Sequence[int]) -> Whole:
    """Rows per category of every column, then its missing ones, column after column; O(n).

    Parameters
    ----------
    codes : sequence of ndarray of int32 (n,)
        Per column, -1 where missing.
    sizes : sequence of int
        Public categories of each.
    """
    out = [
        np.bincount(np.where(c < 0, size, c), minlength=size + 1)[: size + 1]
        for c, size in zip(codes, sizes, strict=True)
    ]
    return np.concatenate(out).astype(np.int64) if out else np.zeros(0, np.int64)


def histograms(values: Sequence[Floats], columns: Sequence[Column], bins: int) -> Whole:
    """Rows per bin of every column as numpy counts them: half-open, the last closed; O(n log bins)."""
    out = [
        _bins(x, edges_of(*bounds_of(column), bins))[1:-1]
        for x, column in zip(values, columns, strict=True)
    ]
    return np.concatenate(out)


def moments(values: Sequence[Floats], columns: Sequence[Column], exponent: int) -> dict[str, Whole]:
    """Count, sum and sum of squares of every column on the grid of ``2^-exponent``; O(n).

    A value is centred on its public bounds and divided by their half width, clipped to [-1, 1] and
    rounded to the nearest step; the square is that of the rounded value, exactly.
    """
    count, total, square = ([np.int64(0)] * len(columns) for _ in range(3))
    for j, (x, column) in enumerate(zip(values, columns, strict=True)):
        q = on_grid(x[~np.isnan(x)], column, exponent)
        count[j], total[j], square[j] = np.int64(len(q)), q.sum(), (q * q).sum()
    return {
        "moments.count": np.array(count, np.int64),
        "moments.sum": np.array(total, np.int64),
        "moments.square": np.array(square, np.int64),
    }


def on_grid(x: Floats, column: Column, exponent: int) -> Whole:
    """Values in whole steps of ``2^-exponent`` of the half width of their bounds."""
    low, high = bounds_of(column)
    scaled = np.clip((x - (low + high) / 2) / ((high - low) / 2), -1.0, 1.0)
    return np.rint(np.ldexp(scaled, exponent)).astype(np.int64)


def ranks(values: Sequence[Floats], intervals: Floats, tops: Sequence[float], bins: int) -> Whole:
    """Per column and quantile: rows below its interval, per bin of it, above; O(n log bins).

    Parameters
    ----------
    values : sequence of ndarray of float64 (n,)
        NaN where missing; such rows are not counted.
    intervals : ndarray of float64 (columns, quantiles, 2)
        Where each quantile is looked for: half-open, closed where they end at the column's bound.
    tops : sequence of float
        That bound, per column.
    """
    out = [
        _bins(x, edges_of(low, high, bins), closed=high >= top)
        for x, each, top in zip(values, intervals, tops, strict=True)
        for low, high in each
    ]
    return np.concatenate(out)


def tree(values: Sequence[Floats], columns: Sequence[Column], bins: int) -> Whole:
    """Rows per node of a tree over every column's bounds, level after level, the root left out."""
    levels = tree_levels(bins)
    out = []
    for x, column in zip(values, columns, strict=True):
        level = _bins(x, edges_of(*bounds_of(column), BRANCHES**levels))[1:-1]
        found = [level]
        for _ in range(levels - 1):
            level = level.reshape(-1, BRANCHES).sum(axis=1)
            found.append(level)
        out += found[::-1]
    return np.concatenate(out)


def leave_out_small(found: Mapping[str, Whole], least: int) -> dict[str, Whole]:
    """Counts with cells of fewer than ``least`` rows set to nought, and moments of such columns."""
    out = dict(found)
    for name in ("categories", "classes", "histogram"):
        if name in out:
            out[name] = np.where(out[name] < least, 0, out[name])
    if "moments.count" in out:
        few = out["moments.count"] < least
        for name in ("moments.count", "moments.sum", "moments.square"):
            out[name] = np.where(few, 0, out[name])
    return out


def _bins(x: Floats, edges: Floats, *, closed: bool = True) -> Whole:
    """Rows below the first edge, per bin, from the last edge on, which ``closed`` moves into it."""
    x = x[~np.isnan(x)]
    at = np.searchsorted(edges, x, side="right")
    if closed:
        at[x == edges[-1]] = len(edges) - 1
    return np.bincount(at, minlength=len(edges) + 1).astype(np.int64)
