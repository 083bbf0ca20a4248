"""Suppression of the rows that cost a class more than they are worth.

A row that is suppressed loses all of its cells.  That pays where it alone makes the cells of many
others wide: of every class, the distinct row is found without which its class loses least, and
those that save most per row go first, as long as the limit lasts.  O(rows · columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.coded import Column
from site_tasks.anonymise.local.bits import fill, loss_of, union
from site_tasks.anonymise.local.compiled import Index, compiled
from site_tasks.anonymise.local.layout import layout

__all__ = ["trim"]


def trim(
    columns: Sequence[Column],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
    classes: NDArray[np.int32],
    count: int,
    k: int,
    most: int,
) -> int:
    """Set ``classes`` to -1 for distinct rows that are better suppressed.

    Parameters
    ----------
    columns : sequence of Column
    codes, counts, classes
        Distinct rows, rows of each, class of each (changed in place).
    count : int
        Number of classes.
    k : int
        Rows that each class keeps.
    most : int
        Rows that may be suppressed.

    Returns
    -------
    int
        Rows suppressed.
    """
    plan = layout(columns)
    rows = np.empty(codes.shape, np.int32)
    bits = np.zeros((len(codes), plan.words), np.uint64)
    fill(codes, plan.base, plan.bits, rows, bits)
    order = np.argsort(classes, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(classes, minlength=count))])
    out = 0
    while out < most:
        item, gain = _worst(bits, counts, order, ends, classes, k, len(columns), plan.parts)
        pays = np.flatnonzero(gain > 0)
        best = item[pays[np.argsort(-gain[pays] / counts[item[pays]], kind="stable")]]
        best = best[np.cumsum(counts[best]) <= most - out]
        if not len(best):
            break
        classes[best] = -1
        out += int(counts[best].sum())
    return out


@compiled
def _worst(
    bits: Any, counts: Any, order: Any, ends: Any, classes: Any, k: Any, q: Any, parts: Any
) -> Any:
    """Of each class, the distinct row whose suppression saves most, and how much."""
    first, count, mask, kind, unit = parts
    made = ends.shape[0] - 1
    item = np.zeros(made, np.int64)
    gain = np.zeros(made)
    largest = 0
    for c in range(made):
        largest = max(largest, ends[c + 1] - ends[c])
    behind = np.zeros((largest + 1, bits.shape[1]), np.uint64)
    before = np.zeros((2, bits.shape[1]), np.uint64)
    for c in range(made):
        start, end = ends[c], ends[c + 1]
        whole = 0
        behind[end - start, :] = 0
        before[0, :] = 0
        for x in range(end - 1, start - 1, -1):
            behind[x - start, :] = behind[x - start + 1, :]
            if classes[order[x]] >= 0:
                union(behind, Index(x - start), bits, Index(order[x]))
                whole += counts[order[x]]
        now = whole * loss_of(behind, Index(0), first, count, mask, kind, unit)
        for x in range(start, end):
            i = order[x]
            if classes[i] < 0:
                continue
            left = whole - counts[i]
            if left >= k:
                before[1, :] = before[0, :]
                union(before, Index(1), behind, Index(x - start + 1))
                saved = now - counts[i] * q
                saved -= left * loss_of(before, Index(1), first, count, mask, kind, unit)
                if saved > gain[c] + 1e-9:
                    gain[c] = saved
                    item[c] = i
            union(before, Index(0), bits, Index(i))
    return item, gain
