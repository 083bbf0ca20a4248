"""A table as its classes and what they hold: one sort, everything else follows from it.

Quasi-identifiers and the sensitive value are packed into one int64 per row; sorted, equal numbers
lie together, and their runs are the (class, sensitive value) pairs.  O(rows · log rows) time, a few
int64 per row of memory; no row needs to know its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pairs", "packed", "pairs", "sizes"]

Integers = NDArray[np.int64]
_LIMIT = 2**62


@dataclass(frozen=True)
class Pairs:
    """Rows per class and sensitive value, where there are any.

    Parameters
    ----------
    starts : ndarray of int64, shape (classes,)
        First pair of every class.
    sizes : ndarray of int64, shape (classes,)
        Rows of every class.
    values : ndarray of int64, shape (pairs,)
        Sensitive value, rising within a class; values that do not occur have no number.
    counts : ndarray of int64, shape (pairs,)
        Rows of every pair.
    total : ndarray of int64, shape (values,)
        Rows of the table per value.
    """

    starts: Integers
    sizes: Integers
    values: Integers
    counts: Integers
    total: Integers

    @property
    def distinct(self) -> Integers:
        """Distinct sensitive values of every class."""
        return np.diff(self.starts, append=len(self.counts))


def packed(codes: Sequence[NDArray[Any]], radices: Sequence[int]) -> tuple[Integers, int]:
    """One number per row and combination of codes; O(rows · columns).

    Parameters
    ----------
    codes : sequence of ndarray of int, each of shape (n,)
        Non-negative codes per column.
    radices : sequence of int
        How many codes each column has.

    Returns
    -------
    key : ndarray of int64, shape (n,)
    radix : int
        Above every key, at most 2**62.
    """
    key, radix = codes[0].astype(np.int64), int(radices[0])
    for column, size in zip(codes[1:], radices[1:], strict=True):
        if radix * size >= _LIMIT:  # numbered anew: then it fits
            found, key = np.unique(key, return_inverse=True)
            radix = len(found)
        key *= size
        key += column
        radix *= size
    return key, radix


def sizes(key: Integers, counts: Integers | None = None) -> Integers:
    """Rows of every class, in the order of the keys; O(n log n).  ``counts`` as in :func:`pairs`."""
    return _counted(key.copy(), counts)[1]


def pairs(
    key: Integers,
    radix: int,
    sensitive: NDArray[Any],
    values: int,
    counts: Integers | None = None,
) -> Pairs:
    """Count rows by class and sensitive value; O(n log n).

    Parameters
    ----------
    key : ndarray of int64, shape (n,)
        Class of every row, below ``radix``; at least one row.
    radix : int
        See :func:`packed`.
    sensitive : ndarray of int, shape (n,)
        Code of every row's sensitive value, below ``values``.
    values : int
        How many codes there are.
    counts : ndarray of int64, shape (n,), optional
        How many rows of the table each row stands for; one when absent.
    """
    if radix * values >= _LIMIT:
        _, key = np.unique(key, return_inverse=True)
    both = key * values
    both += sensitive
    first, rows = _counted(both, counts)
    classes, found = np.divmod(first, values)
    starts = np.flatnonzero(np.concatenate([[True], classes[1:] != classes[:-1]]))
    total = np.zeros(values, np.int64)
    np.add.at(total, found, rows)
    occurs = total > 0
    renumbered = (np.cumsum(occurs) - 1)[found]
    return Pairs(starts, np.add.reduceat(rows, starts), renumbered, rows, total[occurs])


def _counted(key: Integers, counts: Integers | None) -> tuple[Integers, Integers]:
    """Distinct keys in order, and the rows of each; sorts ``key`` in place where it can."""
    if counts is None:
        key.sort()
        return _runs(key)
    order = np.argsort(key)
    found, lengths = _runs(key[order])
    if not len(found):
        return found, lengths
    starts = np.cumsum(lengths) - lengths
    return found, np.add.reduceat(counts[order], starts)


def _runs(ordered: Integers) -> tuple[Integers, Integers]:
    """Values of a sorted array, and how often each occurs."""
    if not len(ordered):
        return ordered, ordered
    edges = np.flatnonzero(ordered[1:] != ordered[:-1])
    starts = np.concatenate([[0], edges + 1])
    return ordered[starts], np.diff(starts, append=len(ordered))
