"""Strict local recoding of tables that are never in memory: two passes over their pieces.

The first pass counts distinct rows, the partition is made of these, the second pass looks every
row's class up.  Memory O(piece + distinct rows).  Equal to the partition of the whole table at
once: a strict partition asks for nothing but distinct rows and their counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.local.conditions import conditions
from site_tasks.anonymise.local.distinct import LIMIT, find, grouped, pack, radices, unpack
from site_tasks.anonymise.local.engine import settled, strict_of
from site_tasks.anonymise.models import Model
from site_tasks.anonymise.recoding import Recoding
from site_tasks.anonymise.secret import Secret

__all__ = ["Partition", "counted", "recode_stream", "streamable"]

Keys = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """Classes of the distinct rows of a table, to be looked up piece by piece.

    Parameters
    ----------
    whole : Recoding
        Of the distinct rows, each counted once; its cells are those of every piece.
    rows : ndarray of int64, shape (distinct rows,)
        Rows of the table that each distinct row stands for.
    """

    whole: Recoding
    rows: NDArray[np.int64]
    _keys: Keys
    _sizes: NDArray[np.int64]
    _sensitive_domain: tuple[Any, ...]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each class; shape (classes,)."""
        return self.whole.sizes(self.rows)

    @property
    def suppressed(self) -> int:
        """Rows of the table that have no class."""
        return int(self.rows[self.whole.classes < 0].sum())

    def distinct(self) -> Coded:
        """The distinct rows in the order of ``whole.classes``, with sensitive values where models
        read them; O(distinct rows · columns).
        """
        columns = self.whole.columns
        codes, sensitive = unpack(self._keys, self._sizes, len(columns))
        return Coded(columns, codes, sensitive, self._sensitive_domain)

    def apply(self, piece: Coded) -> Recoding:
        """Recoding of some rows of the table; O(rows · log distinct rows).

        Raises
        ------
        DataError
            ``data.version`` for rows that the first pass has not seen.
        """
        at = find(pack(piece, self._sizes), self._keys)
        if (at < 0).any():
            raise DataError(
                "data.version",
                "The table changed between the two passes of its anonymisation.",
                "Start again from a dataset version that does not change.",
            )
        return Recoding(self.whole.columns, self.whole.classes[at], self.whole.cells)


def streamable(columns: Sequence[Column], sensitive: Column | Secret | None = None) -> bool:
    """Whether all combinations of these columns have a 64-bit number of their own."""
    values = 1 if sensitive is None else len(sensitive.domain) + 1
    return math.prod(column.size for column in columns) * values < LIMIT


def recode_stream(
    pieces: Callable[[], Iterable[Coded]],
    *,
    k: int,
    models: Sequence[Model] = (),
    suppression_limit: float = 0.0,
) -> Partition:
    """Partition a table piece by piece.

    Parameters
    ----------
    pieces : callable
        Starts a pass: coded pieces of equal columns.
    k, models, suppression_limit
        See :func:`site_tasks.anonymise.local.recode`.

    Raises
    ------
    DataError
        As :func:`site_tasks.anonymise.local.recode` raises.
    ConfigError
        ``config.invalid`` where the columns have too many combinations for one 64-bit number.
    """
    first, keys, counts, sizes = counted(pieces, sensitive=bool(models))
    if first is None or counts.sum() < k:
        raise DataError(
            "data.too-few-rows",
            f"The table has {counts.sum()} rows, fewer than k = {k}.",
            "Lower k, or leave this dataset out.",
        )
    codes, sensitive = unpack(keys, sizes, len(first.columns))
    total = np.zeros(0, np.int64)
    if sensitive is not None:
        total = np.zeros(len(first.sensitive_domain) + 1, np.int64)
        np.add.at(total, sensitive, counts)
    needs = settled(conditions(k, models, total), models, int(counts.sum()))
    whole = strict_of(first.columns, codes, counts, sensitive, needs, suppression_limit)
    domain = () if sensitive is None else first.sensitive_domain
    return Partition(whole, counts, keys, sizes, domain)


def counted(
    pieces: Callable[[], Iterable[Coded]], *, sensitive: bool
) -> tuple[Coded | None, Keys, NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows of a table, counted piece by piece; memory O(piece + distinct rows).

    Parameters
    ----------
    pieces : callable
        Starts a pass: coded pieces of equal columns.
    sensitive : bool
        Whether rows of different sensitive values stay apart.

    Returns
    -------
    first : Coded or None
        The first piece; None of an empty table.
    keys, counts : ndarray of int64, shape (distinct rows,)
        One number per distinct row in ascending order, and its rows.
    sizes : ndarray of int64
        Number of codes per column, by which keys are made and taken apart.

    Raises
    ------
    ConfigError
        ``config.invalid`` where the columns have too many combinations for one 64-bit number.
    """
    first: Coded | None = None
    sizes = np.zeros(0, np.int64)
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    waiting: list[tuple[Keys, NDArray[np.int64]]] = []
    for piece in pieces():
        if first is None:
            first = piece
            sizes = radices(piece, sensitive=sensitive and piece.sensitive is not None)
            if math.prod(sizes.tolist()) >= LIMIT:
                raise ConfigError(
                    "config.invalid",
                    "The quasi-identifiers have too many combinations to be streamed.",
                    "Give columns of many values coarser steps, or recode the table in memory.",
                )
        found, rows, _ = grouped(pack(piece, sizes))
        waiting.append((found, rows))
        if sum(len(part) for part, _ in waiting) > len(keys):  # like sizes: O(n log n) in all
            keys, counts = _merged([(keys, counts), *waiting])
            waiting = []
    keys, counts = _merged([(keys, counts), *waiting])
    return first, keys, counts, sizes


def _merged(parts: Sequence[tuple[Keys, NDArray[np.int64]]]) -> tuple[Keys, NDArray[np.int64]]:
    keys, inverse = np.unique(np.concatenate([k for k, _ in parts]), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, inverse, np.concatenate([n for _, n in parts]))
    return keys, counts
