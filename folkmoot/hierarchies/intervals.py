"""Half-open intervals over numbers: ``[10, 20)`` never takes 20, whatever the width.

Edges are what a person would write: ``0 + 3 · 0.1`` is 0.3 here, not 0.30000000000000004, so that a
value on an edge falls to the right of it.  The last interval ends at the upper bound and holds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.hierarchies.tree import ValueHierarchy, fault

__all__ = ["breaks", "edges", "interval_count", "interval_index", "intervals"]

Numbers = NDArray[np.float64]
#: Most values that a domain of whole numbers or of finest intervals may have.
MOST = 100_000


def interval_count(lower: float, upper: float, width: float) -> int:
    """Number of intervals between the bounds; the last one may be narrower."""
    return max(math.ceil((upper - lower) / width * (1 - 1e-12)), 1)


def edges(lower: float, width: float, index: NDArray[np.float64]) -> Numbers:
    """Left edges ``lower + index · width``, as their decimals say; shape of ``index``."""
    scale, start, step = _decimals(lower, width)
    if scale and (float(np.max(np.abs(index), initial=0.0)) * abs(step) + abs(start)) < 2**53:
        return np.asarray((start + index * step) / scale)  # whole numbers: one rounding
    return np.asarray(lower + index * width)


def interval_index(values: Numbers, lower: float, upper: float, width: float) -> Numbers:
    """Interval of every number, NaN where it is NaN; O(n).

    Values beyond a bound fall into the outermost interval.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
    lower, upper : float
        Public bounds.
    width : float
        Above 0.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    last = interval_count(lower, upper, width) - 1
    index = np.clip(np.floor((values - lower) / width), 0, last)
    # The quotient's rounding may be off by one at an edge: the edges decide.
    index += edges(lower, width, index + 1) <= values
    index -= edges(lower, width, index) > values
    return np.asarray(np.clip(index, 0, last))


def intervals(
    source: str, lower: float, upper: float, widths: Sequence[float], *, whole: bool
) -> ValueHierarchy:
    """Hierarchy of intervals anchored at the lower public bound.

    Parameters
    ----------
    source : str
        Column, for errors.
    lower, upper : float
        Public bounds.
    widths : sequence of float
        Width per level from 1, each a multiple of the one before.
    whole : bool
        Whole numbers: every one is a value.  Else the intervals of level 1 are.

    Raises
    ------
    ConfigError
        ``config.hierarchy`` for widths that do not nest, and for more than 100,000 values.
    """
    for finer, coarser in pairwise(widths):
        if coarser < finer or abs(coarser / finer - round(coarser / finer)) > 1e-9:
            raise fault(source, "has a width that is no multiple of the one before")
    if whole:
        first, last = math.ceil(lower), math.floor(upper)
        count, width = last - first + 1, 0.0
    else:
        if not widths:
            raise fault(source, "has no widths, which numbers that are not whole need")
        count, width = interval_count(lower, upper, widths[0]), float(widths[0])
    if count > MOST:
        raise fault(
            source,
            f"would have {count} values, more than {MOST}",
            "Choose wider intervals for level 1, or narrower bounds.",
        )
    if whole:
        domain = np.arange(first, last + 1, dtype=np.float64)
        found = [interval_index(domain, lower, upper, w).astype(np.int32) for w in widths]
        values = tuple(range(first, last + 1))
        present = [np.unique(g, return_inverse=True) for g in found]
        groups = tuple(inverse.astype(np.int32) for _, inverse in present)
        names = tuple(
            _names(lower, upper, w, kept) for w, (kept, _) in zip(widths, present, strict=True)
        )
        return ValueHierarchy(source, values, groups, names, True)
    cells = np.arange(count)
    ratios = [round(w / widths[0]) for w in widths]
    groups = tuple((cells // ratio).astype(np.int32) for ratio in ratios)
    middles = lower + (cells + 0.5) * width
    names = tuple(
        _names(lower, upper, w, np.unique(g)) for w, g in zip(widths, groups, strict=True)
    )
    return ValueHierarchy(source, tuple(middles.tolist()), groups, names, True, width)


def breaks(
    source: str, lower: float, upper: float, levels: Sequence[Sequence[float]]
) -> ValueHierarchy:
    """Hierarchy of whole numbers by hand: per level from 1 the left edges of its intervals.

    Parameters
    ----------
    source : str
        Column, for errors.
    lower, upper : float
        Public bounds; the first interval of every level starts at the lower one.
    levels : sequence of sequences of float
        Inner edges in ascending order; every level keeps some of the level before.

    Raises
    ------
    ConfigError
        ``config.hierarchy`` for edges out of order or bounds, or new ones at a later level.
    """
    first, last = math.ceil(lower), math.floor(upper)
    if last - first + 1 > MOST:
        raise fault(source, f"would have more than {MOST} values", "Choose narrower bounds.")
    domain = np.arange(first, last + 1)
    groups, names = [], []
    for level, found in enumerate(levels, 1):
        inner = np.asarray(found, np.float64)
        if (np.diff(inner) <= 0).any() or ((inner <= lower) | (inner > upper)).any():
            raise fault(source, f"has edges at level {level} out of order or beyond the bounds")
        index, inverse = np.unique(
            np.searchsorted(inner, domain, side="right"), return_inverse=True
        )
        ends = [lower, *inner.tolist(), upper]
        closed = len(ends) - 2
        groups.append(inverse.astype(np.int32))
        names.append(tuple(_name(ends[i], ends[i + 1], closed=i == closed) for i in index))
    values = tuple(range(first, last + 1))
    return ValueHierarchy(source, values, tuple(groups), tuple(names), True)


def _names(lower: float, upper: float, width: float, index: NDArray[Any]) -> tuple[str, ...]:
    last = interval_count(lower, upper, width) - 1
    starts = edges(lower, width, index.astype(np.float64))
    ends = edges(lower, width, index.astype(np.float64) + 1)
    return tuple(
        _name(start, upper if i == last else end, closed=i == last)
        for i, start, end in zip(index.tolist(), starts.tolist(), ends.tolist(), strict=True)
    )


def _name(start: float, end: float, *, closed: bool) -> str:
    return f"[{start:g}, {end:g}{']' if closed else ')'}"


@lru_cache(maxsize=256)
def _decimals(lower: float, width: float) -> tuple[int, int, int]:
    """Scale and whole numbers with ``lower = start / scale``, ``width = step / scale``; or zeros."""
    a, b = Decimal(repr(lower)), Decimal(repr(width))
    places = max(0, -int(a.as_tuple().exponent), -int(b.as_tuple().exponent))
    if places > 15:
        return 0, 0, 0
    scale = 10**places
    start, step = int(a * scale), int(b * scale)
    return (scale, start, step) if max(abs(start), abs(step)) < 2**53 else (0, 0, 0)
