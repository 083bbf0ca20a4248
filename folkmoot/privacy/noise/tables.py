"""Inverse-CDF tables in integer arithmetic: exact boundaries, one look-up for most numbers.

A number is drawn by comparing 192 uniform bits with the cumulative probabilities.  The first 16
bits pick one of 65,536 cells; a cell that holds no boundary decides at once.  The others go on with
48 bits by binary search, and a tie there (one in 2^50 numbers) with the last 128 bits.  So a number
costs two bytes of entropy and one look-up in a table that fits a core's cache.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from math import prod

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import PrivacyError
from folkmoot.privacy.noise.entropy import Entropy

__all__ = ["CHUNK", "DISTANCE", "ONE", "WORD", "Table", "exp_minus", "positive", "size_of"]

#: Most that one number's law differs from the law it is named after, in total variation.  Made of
#: tails cut at 2^-148, boundaries rounded to 2^-192, weights computed to 2^-220, and (for large
#: variances) smoothing to 2^-139: their sum is far below.
DISTANCE = 2.0**-128
#: Bits behind the point in fixed-point weights, and the number 1 among them.
WORD = 256
ONE = 1 << WORD
#: Numbers that are drawn at once: small enough for the core's cache.
CHUNK = 1 << 16

_CELLS = 1 << 16
_UNDECIDED = -(1 << 30)


class Table:
    """A law on the integers ``first, first + 1, …`` with the given weights; O(values) to make.

    Parameters
    ----------
    weights : sequence of int
        Non-negative, in any common unit; at most 65,536 of them, at least one positive.
    first : int
        Value of the first weight.
    """

    def __init__(self, weights: Sequence[int], first: int) -> None:
        sums = list(accumulate(weights))
        total = sums.pop()
        self._first = first
        self.largest = max(abs(first), abs(first + len(sums)))
        # Value number j is drawn where exactly j boundaries lie at or below the uniform number.
        shift = total.bit_length() + 48
        inverse = (1 << shift + 192) // total
        self._bounds = [part * inverse >> shift for part in sums]
        while self._bounds and self._bounds[-1] >> 192:  # weights of nothing at the end
            self._bounds.pop()
        words = b"".join([bound.to_bytes(24, "big") for bound in self._bounds])
        parts = np.frombuffer(words, ">u2").reshape(-1, 12)
        high = parts[:, 0].astype(np.int64)
        low = parts[:, 1:4].astype(np.uint64) @ np.array([1 << 32, 1 << 16, 1], np.uint64)
        held = np.bincount(high, minlength=_CELLS)
        rank = np.cumsum(held > 0) - 1
        self._cells = np.where(held > 0, _UNDECIDED - rank, first + np.cumsum(held) - held).astype(
            np.int32
        )
        self._keys = (rank[high].astype(np.uint64) << np.uint64(48)) | low
        # Of each cell with a boundary: the first one, the value below it, and whether more follow.
        first_of = np.flatnonzero(np.diff(high, prepend=-1))
        self._edge, self._below = low[first_of], first_of + first
        self._several = held[high[first_of]] > 1

    def fill(self, out: NDArray[np.int32], entropy: Entropy) -> None:
        """Draw ``len(out)`` numbers; O(len(out))."""
        cells = entropy.words(len(out), "<u2")
        np.take(self._cells, cells, out=out, mode="wrap")
        rest = np.flatnonzero(out <= _UNDECIDED)
        if not rest.size:
            return
        rank = _UNDECIDED - out[rest]
        low = entropy.words(rest.size, "<u8") >> np.uint64(16)
        edge = self._edge[rank]
        found = self._below[rank] + (low >= edge)
        tied = low == edge
        several = np.flatnonzero(self._several[rank])
        if several.size:
            key = (rank[several].astype(np.uint64) << np.uint64(48)) | low[several]
            past = np.searchsorted(self._keys, key, side="right")
            found[several] = past + self._first
            # A key below every boundary has none to tie with; its neighbour never equals it.
            tied[several] = self._keys[past - 1] == key
        out[rest] = found
        for i in np.flatnonzero(tied):
            whole = int(cells[rest[i]]) << 176 | int(low[i]) << 128 | entropy.bits(128)
            out[rest[i]] = bisect_right(self._bounds, whole) + self._first


def exp_minus(x: Fraction) -> int:
    """``exp(-x)`` for x >= 0 in units of 2^-256, to within 2^-240 of its value or 2^-256.

    Taylor's series of ``exp(x / 2^k)`` with 64 spare bits, inverted and squared k times.
    """
    if x > WORD:
        return 0
    one, halvings = 1 << (WORD + 64), 0
    while x > Fraction(1, 2):
        x, halvings = x / 2, halvings + 1
    term = total = one
    n = 0
    while term:
        n += 1
        term = term * x.numerator // (x.denominator * n)
        total += term
    value = one * one // total
    for _ in range(halvings):
        value = value * value // one
    return value >> 64


def positive(name: str, value: Fraction | float) -> Fraction:
    """``value`` as the exact fraction it is.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` where it is not a finite number above 0.
    """
    try:
        exact = Fraction(value)
    except (TypeError, ValueError, OverflowError):
        exact = Fraction(0)
    if exact <= 0:
        raise PrivacyError(
            "privacy.mechanism",
            f"{name} of noise must be finite and above 0.",
            "Plan a noise multiplier above 0.",
        )
    return exact


def size_of(size: int | tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """How many numbers a shape holds, and the shape as a tuple."""
    shape = (size,) if isinstance(size, int) else tuple(size)
    return prod(shape), shape
