"""Histograms of encoded features on public bins: one record adds at most one to each column's.

A column of the contract is one group of features (its one-hot features, its number, its flag for
missing values), and a record falls into at most one of a group's bins.  With the count of rows the
vector of a record has at most ``columns + 1`` ones: its L2 norm is at most ``sqrt(columns + 1)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.privacy.bins import Layout
from folkmoot.privacy.planned import COUNT_EXPONENT
from site_tasks.prepared import Prepared

__all__ = ["histogram_sum"]

Integers = NDArray[np.int64]
_BLOCK = 1 << 12


def histogram_sum(prepared: Prepared, layout: Layout) -> Integers:
    """Counts of all bins and of the rows, in whole steps of ``2^-20``; O(n · d).

    Parameters
    ----------
    prepared : Prepared
        The site's rows.
    layout : Layout
        Public bins of every feature.

    Returns
    -------
    ndarray of int64, shape (layout.size,)
        The last number counts rows.
    """
    counts = np.zeros(layout.size, np.int64)
    matrix = prepared.matrix("train")
    for start in range(0, len(matrix), _BLOCK):
        counts += record_counts(np.array(matrix[start : start + _BLOCK], np.float64), layout).sum(0)
    return counts << COUNT_EXPONENT


def record_counts(rows: NDArray[Any], layout: Layout) -> Integers:
    """What each record adds, shape (n, layout.size): zeros and ones, one per column at most."""
    out = np.zeros((len(rows), layout.size), np.int64)
    each = np.arange(len(rows))
    for j, edges in enumerate(layout.edges):
        value, at = rows[:, j], layout.start[j]
        present = ~np.isnan(value)
        if edges is None:
            out[:, at] = present & (value > 0.5)
        else:
            bins = np.searchsorted(edges, np.where(present, value, 0.0), side="right")
            out[each[present], at + bins[present]] = 1
    for group in layout.groups:
        # A record in two bins of one column breaks the encoding: it counts in none of them.
        out[:, group] *= (out[:, group].sum(axis=1) <= 1)[:, None]
    out[:, -1] = 1
    return out
