"""Kernels on sets of values as bits: a union of groups is an OR, a loss a count of bits.

Rows of bits are laid out as :class:`site_tasks.anonymise.local.layout.Layout` says, in whole groups
of four words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from site_tasks.anonymise.local.compiled import Index, compiled, first_bit, last_bit, popcount

__all__ = ["clear", "fill", "loss_of", "union"]


@compiled
def union(into: Any, at: Any, table: Any, row: Any) -> None:
    """Add the bits of ``table[row]`` to ``into[at]``; whole groups of four words."""
    for w in range(0, into.shape[1], 4):
        p, q, r, s = Index(w), Index(w + 1), Index(w + 2), Index(w + 3)
        a = into[at, p] | table[row, p]
        b = into[at, q] | table[row, q]
        c = into[at, r] | table[row, r]
        d = into[at, s] | table[row, s]
        into[at, p] = a
        into[at, q] = b
        into[at, r] = c
        into[at, s] = d


@compiled
def loss_of(bits: Any, row: Any, first: Any, count: Any, mask: Any, kind: Any, unit: Any) -> Any:
    """Summed loss of the cells that allow exactly what ``bits[row]`` holds."""
    out = 0.0
    for p in range(first.shape[0]):
        w = first[p]
        found: Any = 0
        if kind[p] == 0:
            if count[p] == 1:
                found = popcount(bits[row, Index(w)] & mask[p])
            else:
                for x in range(w, w + count[p]):
                    found += popcount(bits[row, Index(x)])
        else:
            absent = np.uint64(kind[p] - 1)  # where the bit of the missing value is
            found = np.int64(
                (bits[row, Index(absent >> np.uint64(6))] >> (absent & np.uint64(63)))
                & np.uint64(1)
            )
            if count[p] == 1:
                word = bits[row, Index(w)] & mask[p]
                if word != 0:
                    found += 64 - last_bit(word) - first_bit(word)
            else:
                low = 0
                high = -1
                for x in range(count[p]):
                    word = bits[row, Index(w + x)]
                    if word != 0:
                        if high < 0:
                            low = 64 * x + first_bit(word)
                        high = 64 * x + 63 - last_bit(word)
                found += high - low + 1
        out += min((found - 1) * unit[p], 1.0)
    return out


@compiled
def fill(codes: Any, base: Any, table: Any, rows: Any, bits: Any) -> None:
    """Rows of the table of the layout, and bits, of every row's codes."""
    for i in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            rows[i, j] = base[j] + codes[i, j]
            union(bits, Index(i), table, Index(rows[i, j]))


@compiled
def clear(into: Any, at: Any) -> None:
    """Take all bits out of ``into[at]``."""
    for w in range(into.shape[1]):
        into[at, Index(w)] = 0
