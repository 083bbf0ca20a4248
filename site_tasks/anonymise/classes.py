"""Sizes of equivalence classes over a table that is never in memory.

Combinations of quasi-identifiers are packed into one int64 per row: each column gets a number of
its own range, and ranges multiply.  Where the product would not fit, a column (or a packed group)
is first numbered by its distinct values, which takes another pass.  Exact, whatever the columns:
no hashing.  Counting is O(rows · log classes) time, O(chunk + classes) memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassSizes", "count_classes"]

Columns = Mapping[str, NDArray[Any]]
Codes = NDArray[np.int64]
_LIMIT = 2**62


class _Counter:
    """Distinct keys with their counts; merges like-sized runs, so that n keys cost O(n log n)."""

    def __init__(self) -> None:
        self._runs: list[tuple[Codes, Codes]] = []

    def add(self, keys: Codes) -> None:
        found, counts = np.unique(keys, return_counts=True)
        self._runs.append((found, counts))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            self._merge()

    def result(self) -> tuple[Codes, Codes]:
        while len(self._runs) > 1:
            self._merge()
        empty = np.zeros(0, np.int64)
        return self._runs[0] if self._runs else (empty, empty)

    def _merge(self) -> None:
        (a, na), (b, nb) = self._runs.pop(), self._runs.pop()
        keys, inverse = np.unique(np.concatenate([a, b]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, inverse, np.concatenate([na, nb]))
        self._runs.append((keys, counts))


@dataclass(frozen=True)
class _Key:
    """A column, or several packed together: codes in ``[0, radix)``."""

    code: Callable[[Columns], Codes]
    radix: int


@dataclass(frozen=True)
class ClassSizes:
    """Size of every equivalence class of a table.

    Parameters
    ----------
    keys : ndarray of int64, shape (classes,)
        Packed combinations, sorted.
    counts : ndarray of int64, shape (classes,)
        Rows of each.
    """

    keys: Codes
    counts: Codes
    _key: _Key

    def rows_below(self, k: int) -> int:
        """Rows in classes smaller than ``k``."""
        return int(self.counts[self.counts < k].sum())

    def index(self, columns: Columns) -> Codes:
        """Number of the class of every row of a chunk; O(rows · log classes)."""
        return np.searchsorted(self.keys, self._key.code(columns)).astype(np.int64)

    def of(self, columns: Columns) -> Codes:
        """Size of the class of every row of a chunk; O(rows · log classes)."""
        return self.counts[np.searchsorted(self.keys, self._key.code(columns))]


def count_classes(chunks: Callable[[], Iterable[Columns]]) -> ClassSizes:
    """Count the rows of every combination of values.

    Parameters
    ----------
    chunks : callable
        Starts a pass over the table: chunks of generalised quasi-identifiers by column name, as
        non-negative codes (integers, -1 where missing) or numbers (float64, NaN where missing).
        At least one column and one row.

    Returns
    -------
    ClassSizes
    """
    keys = _single(chunks)
    while len(keys) > 1:
        merged = _pair(keys)
        # Numbered by distinct values no key exceeds the number of rows: then pairs always fit.
        keys = merged if len(merged) < len(keys) else _numbered(keys, chunks)
    counter = _Counter()
    for columns in chunks():
        counter.add(keys[0].code(columns))
    return ClassSizes(*counter.result(), keys[0])


def _single(chunks: Callable[[], Iterable[Columns]]) -> list[_Key]:
    """A key per column; numbers are numbered by their distinct values in one pass."""
    most: dict[str, int] = {}
    numbers: dict[str, _Counter] = {}
    for columns in chunks():
        for name, values in columns.items():
            if values.dtype.kind == "f":
                numbers.setdefault(name, _Counter()).add(_bits(values))
            most[name] = max(most.get(name, 0), 0 if values.dtype.kind == "f" else _top(values))
    keys = []
    for name, top in most.items():
        if name in numbers:
            distinct, _ = numbers[name].result()
            keys.append(_lookup(partial(_number, name), distinct))
        else:
            keys.append(_Key(partial(_code, name), top + 2))
    return keys


def _code(name: str, columns: Columns) -> Codes:
    return columns[name].astype(np.int64) + 1


def _number(name: str, columns: Columns) -> Codes:
    return _bits(columns[name])


def _top(values: NDArray[Any]) -> int:
    return int(values.max(initial=-1))


def _bits(values: NDArray[Any]) -> Codes:
    """Floats as integers, equal where the floats are (and NaN equal to NaN)."""
    plain = values + 0.0  # a fresh copy without negative zero
    plain[np.isnan(plain)] = np.nan
    return plain.view(np.int64)


def _pair(keys: list[_Key]) -> list[_Key]:
    """Pack neighbours together as long as the product of their ranges fits an int64."""
    packed = [keys[0]]
    for key in keys[1:]:
        last = packed[-1]
        if last.radix * key.radix < _LIMIT:
            packed[-1] = _Key(partial(_packed, last, key), last.radix * key.radix)
        else:
            packed.append(key)
    return packed


def _packed(a: _Key, b: _Key, columns: Columns) -> Codes:
    return a.code(columns) * b.radix + b.code(columns)


def _numbered(keys: list[_Key], chunks: Callable[[], Iterable[Columns]]) -> list[_Key]:
    counters = [_Counter() for _ in keys]
    for columns in chunks():
        for key, counter in zip(keys, counters, strict=True):
            counter.add(key.code(columns))
    return [_lookup(k.code, c.result()[0]) for k, c in zip(keys, counters, strict=True)]


def _lookup(code: Callable[[Columns], Codes], distinct: Codes) -> _Key:
    def position(columns: Columns) -> Codes:
        return np.searchsorted(distinct, code(columns)).astype(np.int64)

    return _Key(position, len(distinct))
