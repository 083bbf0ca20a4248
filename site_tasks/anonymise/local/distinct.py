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

__all__ = ["Keys", "distinct", "find", "pack", "unpack"]

Keys = NDArray[np.int64]
_LIMIT = 2**62
_FEW = 2048


def distinct(coded: Coded, *, sensitive: bool = False) -> Distinct:
    """Distinct rows with counts; see :meth:`site_tasks.anonymise.coded.Coded.distinct`."""
    sizes = radices(coded, sensitive=sensitive)
    if np.prod(sizes.astype(np.float64)) >= _LIMIT or coded.rows < _FEW:
        return coded.distinct(sensitive=sensitive)
    keys = pack(coded, sizes)
    found, counts, inverse = _group(keys)
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


def _group(keys: Keys) -> tuple[Keys, NDArray[np.int64], NDArray[np.int32]]:
    """Distinct keys in order, rows of each, and its number for every row."""
    inverse = np.empty(len(keys), np.int32)
    slots, numbers, found, counts = _insert(keys, inverse)
    order = np.sort(found)
    rank = _rank(order, slots, numbers)
    _renumber(inverse, rank)
    sorted_counts = np.empty(len(counts), np.int64)
    sorted_counts[rank] = counts
    return order, sorted_counts, inverse


def find(keys: Keys, among: Keys) -> NDArray[np.int32]:
    """Number of each key in a sorted array that holds it; O(n log m), -1 where it does not."""
    at = np.searchsorted(among, keys)
    at[at == len(among)] = 0
    return np.where(among[at] == keys, at, -1).astype(np.int32)


@compiled
def _slot(key: Any, slots: Any, numbers: Any) -> Any:
    """Slot that holds a key, or the free one where it belongs."""
    mask = Index(slots.shape[0] - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = Index(mixed >> np.uint64(20)) & mask
    while numbers[at] >= 0 and slots[at] != key:
        at = (at + Index(1)) & mask
    return at


@compiled
def _insert(keys: Any, inverse: Any) -> Any:
    """Number keys by first appearance in a table that stays at most half full."""
    size = 1 << 15
    slots = np.empty(size, np.int64)
    numbers = np.full(size, -1, np.int32)
    found = np.empty(size // 2, np.int64)
    counts = np.empty(size // 2, np.int64)
    n = 0
    for i in range(keys.shape[0]):
        key = keys[i]
        at = _slot(key, slots, numbers)
        number = numbers[at]
        if number < 0:
            if 2 * (n + 1) > size:
                size *= 4
                slots = np.empty(size, np.int64)
                numbers = np.full(size, -1, np.int32)
                more = np.empty(size // 2, np.int64)
                more_counts = np.empty(size // 2, np.int64)
                for x in range(n):
                    more[x] = found[x]
                    more_counts[x] = counts[x]
                    at = _slot(found[x], slots, numbers)
                    slots[at] = found[x]
                    numbers[at] = x
                found = more
                counts = more_counts
                at = _slot(key, slots, numbers)
            number = np.int32(n)
            slots[at] = key
            numbers[at] = number
            found[n] = key
            counts[n] = 0
            n += 1
        counts[number] += 1
        inverse[i] = number
    return slots, numbers, found[:n].copy(), counts[:n].copy()


@compiled
def _rank(order: Any, slots: Any, numbers: Any) -> Any:
    rank = np.empty(order.shape[0], np.int32)
    for i in range(order.shape[0]):
        rank[numbers[_slot(order[i], slots, numbers)]] = i
    return rank


@compiled
def _renumber(inverse: Any, rank: Any) -> None:
    for i in range(inverse.shape[0]):
        inverse[i] = rank[inverse[i]]
