"""Values of a group of rows as bits: a union is an OR, a loss a count of bits.

Every column owns a stretch of bits in a few 64-bit words, one bit per value; columns of more than
:data:`BUCKETS` values share bits between neighbours, which makes their losses approximate while
cuts are compared (the cells published are exact).  Small columns are packed into common words,
first fit, largest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.coded import Column

__all__ = ["BUCKETS", "Layout", "layout"]

BUCKETS = 256
_WORD = 64
_UNROLL = 4

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where the bits of each column are.

    Parameters
    ----------
    words : int
        64-bit words per row, a multiple of 4.
    base : ndarray of int64, shape (q + 1,)
        First row of each column in a table with one row per column and code.
    bits : ndarray of uint64, shape (base[q], words)
        Bits of every code of every column.
    wide : ndarray of bool, shape (q,)
        Columns whose values share bits.
    first, count : ndarray of int64, shape (q,)
        First word, and number of words, of each column.
    mask : ndarray of uint64, shape (q,)
        Bits of the column where it lies within one word.
    kind : ndarray of int64, shape (q,)
        0 for a set; for a range 1 and the number of the bit of its missing value.
    unit : ndarray of float64, shape (q,)
        Loss of one bit more.
    ordered : ndarray of bool, shape (q,)
    """

    words: int
    base: Ints
    bits: NDArray[np.uint64]
    wide: NDArray[np.bool_]
    ordered: NDArray[np.bool_]
    first: Ints
    count: Ints
    mask: NDArray[np.uint64]
    kind: Ints
    unit: NDArray[np.float64]

    @property
    def parts(self) -> tuple[NDArray[Any], ...]:
        """What a kernel needs to compute a loss."""
        return self.first, self.count, self.mask, self.kind, self.unit


def layout(columns: Sequence[Column]) -> Layout:
    """Lay the columns out; O(sum of the domains · words)."""
    stretches: list[tuple[int, int, int, float]] = []  # column, kind, bits, loss of a bit
    for j, column in enumerate(columns):
        values = len(column.domain)
        shown = min(values, BUCKETS)
        unit = max(values / shown, 1.0) / max(values - 1, 1)
        if column.ordered:
            stretches += [(j, 1, shown, unit), (j, 2, 1, unit)]
        else:  # the missing value is one more of the set
            stretches.append((j, 0, shown + 1, unit))
    at, words = _packed([bits for _, _, bits, _ in stretches])
    base = np.cumsum([0, *(column.size for column in columns)], dtype=np.int64)
    table = np.zeros((int(base[-1]), words), np.uint64)
    first: list[int] = []
    count: list[int] = []
    mask: list[int] = []
    kind: list[int] = []
    unit_of: list[float] = []
    for (j, sort, bits, unit), start in zip(stretches, at, strict=True):
        values = len(columns[j].domain)
        code = np.arange(values + 1)
        if sort == 2:
            code, bit = code[-1:], np.zeros(1, np.int64)
        else:
            bit = code * min(values, BUCKETS) // max(values, 1)
            if sort == 1:
                code, bit = code[:-1], bit[:-1]
        bit = bit + start
        table[base[j] + code, bit // _WORD] |= np.uint64(1) << (bit % _WORD).astype(np.uint64)
        if sort == 2:  # comes right behind its range
            kind[-1] = 1 + start
            continue
        first.append(start // _WORD)
        count.append(-(-(start % _WORD + bits) // _WORD))
        mask.append(((1 << min(bits, _WORD)) - 1 << start % _WORD) & (2**_WORD - 1))
        kind.append(sort)
        unit_of.append(unit)
    return Layout(
        words,
        base,
        table,
        np.array([len(c.domain) > BUCKETS for c in columns]),
        np.array([c.ordered for c in columns]),
        np.array(first, np.int64),
        np.array(count, np.int64),
        np.array(mask, np.uint64),
        np.array(kind, np.int64),
        np.array(unit_of),
    )


def _packed(sizes: Sequence[int]) -> tuple[list[int], int]:
    """First bit of each stretch, and words in all; none of up to 64 bits spans two words."""
    at = [0] * len(sizes)
    used: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        if sizes[i] > _WORD:  # whole words of its own
            at[i] = len(used) * _WORD
            used += [_WORD] * -(-sizes[i] // _WORD)
            continue
        word = next((w for w, bits in enumerate(used) if bits + sizes[i] <= _WORD), len(used))
        if word == len(used):
            used.append(0)
        at[i] = word * _WORD + used[word]
        used[word] += sizes[i]
    return at, -(-len(used) // _UNROLL) * _UNROLL
