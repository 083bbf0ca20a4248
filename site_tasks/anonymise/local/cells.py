"""Cells of a partition: exactly the values that the rows of each class have, ranges filled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.coded import Column
from site_tasks.anonymise.local.compiled import compiled
from site_tasks.anonymise.recoding import Cells, Ranges, Sets

__all__ = ["cells_of", "equal_merged"]


def cells_of(
    columns: Sequence[Column], codes: NDArray[np.int32], classes: NDArray[np.int32], count: int
) -> tuple[Cells, ...]:
    """Smallest cells that cover the rows of every class; O(rows · columns).

    Parameters
    ----------
    columns : sequence of Column
    codes : ndarray of int32, shape (m, q)
        Rows, distinct or not.
    classes : ndarray of int32, shape (m,)
        Class of each; -1 for none.
    count : int
        Number of classes.
    """
    out: list[Cells] = []
    for j, column in enumerate(columns):
        if column.ordered:
            low = np.full(count, column.missing, np.int32)
            high = np.full(count, -1, np.int32)
            missing = np.zeros(count, np.bool_)
            _ranges(codes[:, j], classes, column.missing, low, high, missing)
            high[high < 0] = column.missing - 1  # nothing but missing: an empty range
            out.append(Ranges(low, high, missing))
        else:
            words = np.zeros((count, -(-column.size // 64)), np.uint64)
            _sets(codes[:, j], classes, words)
            out.append(Sets(words))
    return tuple(out)


def equal_merged(
    classes: NDArray[np.int32], cells: tuple[Cells, ...]
) -> tuple[NDArray[np.int32], tuple[Cells, ...]]:
    """Make one class of all whose cells are equal: nobody who sees the table can part them."""
    shown = [
        np.stack([c.low, c.high, c.missing], axis=1) if isinstance(c, Ranges) else c.words
        for c in cells
    ]
    wide = np.concatenate([part.astype(np.uint64) for part in shown], axis=1)
    _, first, number = np.unique(wide, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(wide):
        return classes, cells
    order = np.argsort(first)  # by first appearance
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    merged = np.where(classes >= 0, rank[number.reshape(-1)][classes], -1).astype(np.int32)
    at = first[order]
    kept: tuple[Cells, ...] = tuple(
        Ranges(c.low[at], c.high[at], c.missing[at]) if isinstance(c, Ranges) else Sets(c.words[at])
        for c in cells
    )
    return merged, kept


@compiled
def _ranges(codes: Any, classes: Any, absent: Any, low: Any, high: Any, missing: Any) -> None:
    for i in range(codes.shape[0]):
        c = classes[i]
        if c < 0:
            continue
        code = codes[i]
        if code == absent:
            missing[c] = True
            continue
        if code < low[c]:
            low[c] = code
        if code > high[c]:
            high[c] = code


@compiled
def _sets(codes: Any, classes: Any, words: Any) -> None:
    for i in range(codes.shape[0]):
        c = classes[i]
        if c >= 0:
            code = np.uint64(codes[i])
            words[c, code >> np.uint64(6)] |= np.uint64(1) << (code & np.uint64(63))
