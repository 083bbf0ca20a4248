"""Equal rows counted once: a hash table over packed rows, then sorted.

All codes of a row are packed into one int64 (each column a digit in its own base), which decides
equality exactly.  O(n) expected time for the table, O(m log m) for sorting m distinct rows; equal
to :meth:`site_tasks.anonymise.coded.Coded.distinct`, several times as fast on large tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.coded import Coded, Distinct
from site_tasks.anonymise.local.compiled import Index, compiled

__all__ = ["LIMIT", "Keys", "distinct", "find", "grouped", "pack", "radices", "unpack"]

Keys = NDArray[np.int64]
LIMIT = 2**62
_FEW = 2048
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BUCKETS = 9
_TOP = np.uint64(64 - _BUCKETS)
_PIECE = 1 << 19


def distinct(coded: Coded, *, sensitive: bool = False) -> Distinct:
    """Distinct rows with counts; see :meth:`site_tasks.anonymise.coded.Coded.distinct`."""
    sizes = radices(coded, sensitive=sensitive)
    if np.prod(sizes.astype(np.float64)) >= LIMIT or coded.rows < _FEW:
        return coded.distinct(sensitive=sensitive)
    keys = pack(coded, sizes)
    found, counts, inverse = grouped(keys)
    codes, values = unpack(found, sizes, len(coded.columns))
    return Distinct(codes, values, counts, inverse)


def radices(coded: Coded, *, sensitive: bool) -> NDArray[np.int64]:
    """Number of codes per column, that of the sensitive column last where it counts."""
    sizes = [column.size for column in coded.columns]
    if sensitive and coded.sensitive is not None:
        sizes.append(len(coded.sensitive_domain) + 1)
    return np.array(sizes, np.int64)


def pack(coded: Coded, sizes: NDArray[np.int64]) -> Keys:
    """One int64 per row; in the order of its codes from left to right."""
    keys = np.zeros(coded.rows, np.int64)
    for j, size in enumerate(sizes.tolist()):
        last = j == len(coded.columns)
        values = coded.sensitive if last and coded.sensitive is not None else coded.codes[:, j]
        _append(keys, values, size)
    return keys


def unpack(
    keys: Keys, sizes: NDArray[np.int64], columns: int
) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
    """Codes, shape (m, columns), and sensitive codes where the keys hold them."""
    codes = np.empty((len(keys), columns), np.int32)
    values = np.empty(len(keys) if len(sizes) > columns else 0, np.int32)
    _digits(keys, sizes, codes, values)
    return codes, values if len(sizes) > columns else None


@compiled
def _append(keys: Any, values: Any, size: Any) -> None:
    for i in range(keys.shape[0]):
        keys[i] = keys[i] * size + values[i]


@compiled
def _digits(keys: Any, sizes: Any, codes: Any, values: Any) -> None:
    for i in range(keys.shape[0]):
        rest = keys[i]
        for j in range(sizes.shape[0] - 1, -1, -1):
            above = rest // sizes[j]
            if j < codes.shape[1]:
                codes[i, j] = rest - above * sizes[j]
            else:
                values[i] = rest - above * sizes[j]
            rest = above


def grouped(keys: Keys) -> tuple[Keys, NDArray[np.int64], NDArray[np.int32]]:
    """Distinct keys in order, rows of each, and its number for every row."""
    """Distinct keys in order, rows of each, and the number of every row's key."""
    inverse = np.empty(len(keys), np.int32)
    found, *table = _insert(keys, inverse)
    found.sort()
    counts = np.zeros(len(found), np.int64)
    _renumber(inverse, _rank(found, *table), counts)
    return found, counts, inverse


def find(keys: Keys, among: Keys) -> NDArray[np.int32]:
    """Number of each key in a sorted array that holds it; O(n log m), -1 where it does not."""
    at = np.searchsorted(among, keys)
    at[at == len(among)] = 0
    return np.where(among[at] == keys, at, -1).astype(np.int32)


@compiled
def _slot(key: Any, slots: Any, numbers: Any, shift: Any) -> Any:
    """Slot that holds a key, or the free one where it belongs."""
    mask = Index(slots.shape[0] - 1)
    at = Index((np.uint64(key) * _MIX) >> shift)
    while numbers[at] >= 0 and slots[at] != key:
        at = (at + Index(1)) & mask
    return at


@compiled
def _insert(keys: Any, inverse: Any) -> Any:
    """Number the keys in a table that is at most half full; ``inverse`` gets the numbers.

    The place in the table is the upper part of the hash.  So a piece of the keys, sorted by its
    uppermost bits, goes through the table from start to end, and stays in the cache.
    """
    size = 1
    shift = np.uint64(64)
    slots = np.empty(size, np.int64)
    numbers = np.full(size, -1, np.int32)
    n = 0
    rows = keys.shape[0]
    ends = np.empty((1 << _BUCKETS) + 1, np.int64)
    turn = np.empty(min(rows, _PIECE), np.int32)
    for start in range(0, rows, _PIECE):
        end = min(start + _PIECE, rows)
        if 2 * (n + end - start) > size:  # as if all were new: then no part of it overflows
            old, old_numbers = slots, numbers
            while 2 * (n + end - start) > size:
                size *= 2
                shift -= np.uint64(1)
            slots = np.empty(size, np.int64)
            numbers = np.full(size, -1, np.int32)
            for x in range(old.shape[0]):
                if old_numbers[x] >= 0:
                    at = _slot(old[x], slots, numbers, shift)
                    slots[at] = old[x]
                    numbers[at] = old_numbers[x]
        ends[:] = 0
        for i in range(start, end):
            ends[Index((np.uint64(keys[Index(i)]) * _MIX) >> _TOP) + Index(1)] += 1
        for b in range(1 << _BUCKETS):
            ends[b + 1] += ends[b]
        for i in range(start, end):
            bucket = Index((np.uint64(keys[Index(i)]) * _MIX) >> _TOP)
            turn[Index(ends[bucket])] = i - start
            ends[bucket] += 1
        for t in range(end - start):
            i = Index(start + turn[Index(t)])
            key = keys[i]
            at = _slot(key, slots, numbers, shift)
            if numbers[at] < 0:
                slots[at] = key
                numbers[at] = n
                n += 1
            inverse[i] = numbers[at]
    found = np.empty(n, np.int64)
    for x in range(size):
        if numbers[x] >= 0:
            found[numbers[x]] = slots[x]
    return found, slots, numbers, shift


@compiled
def _rank(order: Any, slots: Any, numbers: Any, shift: Any) -> Any:
    """New number of every old one."""
    rank = np.empty(order.shape[0], np.int32)
    for i in range(order.shape[0]):
        rank[numbers[_slot(order[i], slots, numbers, shift)]] = i
    return rank


@compiled
def _renumber(inverse: Any, rank: Any, counts: Any) -> None:
    for i in range(inverse.shape[0]):
        number = rank[Index(inverse[Index(i)])]
        inverse[Index(i)] = number
        counts[Index(number)] += 1
