"""Strict local recoding of tables that are never in memory: two passes over their pieces.

The first pass counts distinct rows, the partition is made of these, the second pass looks every
row's class up.  Memory O(piece + distinct rows).  Equal to the partition of the whole table at
once: a strict partition asks for nothing but distinct rows and their counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.coded import Coded, Recoding
from site_tasks.anonymise.local.cells import cells_of
from site_tasks.anonymise.local.conditions import conditions
from site_tasks.anonymise.local.distinct import LIMIT, find, grouped, pack, radices, unpack
from site_tasks.anonymise.local.engine import classes_of, settled
from site_tasks.anonymise.models import Model

__all__ = ["Partition", "recode_stream"]

Keys = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """Classes of the distinct rows of a table, to be looked up piece by piece.

    Parameters
    ----------
    whole : Recoding
        Of the distinct rows, each counted once; its cells are those of every piece.
    counts : ndarray of int64, shape (classes,)
        Rows of each class.
    """

    whole: Recoding
    counts: NDArray[np.int64]
    _keys: Keys
    _sizes: NDArray[np.int64]

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


def recode_stream(
    pieces: Callable[[], Iterable[Coded]], *, k: int, models: Sequence[Model] = ()
) -> Partition:
    """Partition a table piece by piece.

    Parameters
    ----------
    pieces : callable
        Starts a pass: coded pieces of equal columns.
    k, models
        See :func:`site_tasks.anonymise.local.recode`.

    Raises
    ------
    DataError
        As :func:`site_tasks.anonymise.local.recode` raises.
    ConfigError
        ``config.invalid`` where the columns have too many combinations for one 64-bit number.
    """
    with_sensitive = False
    first: Coded | None = None
    sizes = np.zeros(0, np.int64)
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    waiting: list[tuple[Keys, NDArray[np.int64]]] = []
    for piece in pieces():
        if first is None:
            first = piece
            with_sensitive = bool(models) and piece.sensitive is not None
            sizes = radices(piece, sensitive=with_sensitive)
            if np.prod(sizes.astype(np.float64)) >= LIMIT:
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
    classes, made = classes_of(first.columns, codes, counts, sensitive, needs)
    cells = cells_of(first.columns, codes, classes, made)
    rows_of = np.zeros(made, np.int64)
    np.add.at(rows_of, classes, counts)
    return Partition(Recoding(first.columns, classes, cells), rows_of, keys, sizes)


def _merged(parts: Sequence[tuple[Keys, NDArray[np.int64]]]) -> tuple[Keys, NDArray[np.int64]]:
    keys, inverse = np.unique(np.concatenate([k for k, _ in parts]), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, inverse, np.concatenate([n for _, n in parts]))
    return keys, counts
