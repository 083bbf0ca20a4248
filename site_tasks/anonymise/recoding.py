"""What an anonymiser made of a coded table: which class a row is in, and what the class's cells allow.

A class allows a missing value only where one of its cells says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.coded import Codes, Column

__all__ = ["Cells", "Flags", "Ranges", "Recoding", "Sets"]

Flags = NDArray[np.bool_]
_WORD = 64


@dataclass(frozen=True)
class Ranges:
    """Cells of an ordered column, one per class: the codes from ``low`` to ``high``.

    Parameters
    ----------
    low, high : ndarray of int32, shape (classes,)
        First and last code allowed; ``low = high + 1`` where only the missing value is.
    missing : ndarray of bool, shape (classes,)
        Whether the missing value is allowed too.
    """

    low: Codes
    high: Codes
    missing: Flags

    def counts(self) -> NDArray[np.int64]:
        """Number of values that each cell allows, the missing one included; shape (classes,)."""
        return (self.high - self.low + 1 + self.missing).astype(np.int64)

    def allowed(self, size: int) -> Flags:
        """Values allowed as a matrix; shape (classes, size), the last column is missing."""
        code = np.arange(size)
        out = (code >= self.low[:, None]) & (code <= self.high[:, None])
        out[:, -1] = self.missing
        return out


@dataclass(frozen=True)
class Sets:
    """Cells of an unordered column, one per class: a set of codes.

    Parameters
    ----------
    words : ndarray of uint64, shape (classes, ⌈size / 64⌉)
        Bit ``code % 64`` of word ``code // 64`` stands for a code; the missing one is the last.
    """

    words: NDArray[np.uint64]

    @classmethod
    def of(cls, allowed: Flags) -> Sets:
        """From a matrix of shape (classes, size)."""
        classes, size = allowed.shape
        count = -(-size // _WORD)
        padded = np.zeros((classes, count * _WORD), np.bool_)
        padded[:, :size] = allowed
        packed = np.packbits(padded.reshape(classes, count, _WORD), axis=2, bitorder="little")
        return cls(np.ascontiguousarray(packed).view("<u8").reshape(classes, count))

    def counts(self) -> NDArray[np.int64]:
        """Number of values that each cell allows, the missing one included; shape (classes,)."""
        return np.asarray(np.bitwise_count(self.words).sum(axis=1), np.int64)

    def allowed(self, size: int) -> Flags:
        """Values allowed as a matrix; shape (classes, size), the last column is missing."""
        code = np.arange(size)
        word = self.words[:, code // _WORD]
        return ((word >> (code % _WORD).astype(np.uint64)) & np.uint64(1)).astype(np.bool_)


Cells = Ranges | Sets


@dataclass(frozen=True)
class Recoding:
    """Which class every row belongs to, and what the cells of each class allow.

    Parameters
    ----------
    columns : tuple of Column
        The quasi-identifiers.
    classes : ndarray of int32, shape (n,)
        Class of every row, -1 where it is suppressed.  Never published.
    cells : tuple of Ranges or Sets
        Per column: :class:`Ranges` where it is ordered, else :class:`Sets`; one cell per class.
    """

    columns: tuple[Column, ...]
    classes: Codes
    cells: tuple[Cells, ...]

    @property
    def count(self) -> int:
        """Number of classes."""
        first = self.cells[0]
        return len(first.low) if isinstance(first, Ranges) else len(first.words)

    @property
    def suppressed(self) -> int:
        """Number of rows suppressed."""
        return int(np.count_nonzero(self.classes < 0))

    def sizes(self, counts: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Rows of every class; shape (classes,).

        ``counts``, shape (n,), says how many rows of the table each row stands for; one when absent.
        """
        kept = self.classes >= 0
        if counts is None:
            return np.bincount(self.classes[kept], minlength=self.count)
        out = np.zeros(self.count, np.int64)
        np.add.at(out, self.classes[kept], counts[kept])
        return out

    def allowed(self, column: int | str) -> Flags:
        """Values that a column's cells allow; shape (classes, domain + 1), missing last."""
        index = self._index(column)
        return self.cells[index].allowed(self.columns[index].size)

    def losses(self) -> NDArray[np.float64]:
        """Loss of every class's cells, (allowed - 1) / (domain - 1), at most 1; (classes, q).

        The missing value counts as a value where a cell allows it, on top of the domain's.
        """
        out = np.empty((self.count, len(self.columns)))
        for j, (column, cells) in enumerate(zip(self.columns, self.cells, strict=True)):
            most = max(len(column.domain) - 1, 1)
            out[:, j] = np.minimum((cells.counts() - 1) / most, 1.0)
        return out

    def loss(self, counts: NDArray[np.int64] | None = None) -> float:
        """Global certainty penalty: mean loss over all cells, a suppressed row's count 1 each.

        Between 0 and 1 (Ghinita et al. 2007, with sets of values in place of subtrees); ``counts``
        as in :meth:`sizes`.
        """
        n = len(self.classes) if counts is None else int(counts.sum())
        if not n:
            return 0.0
        sizes = self.sizes(counts)
        kept = float(sizes @ self.losses().mean(axis=1))
        return (kept + n - int(sizes.sum())) / n

    def cover(self, codes: Codes) -> Flags:
        """Whether the cells of every row that is kept allow its codes; shape (n,)."""
        out = np.ones(len(self.classes), np.bool_)
        kept = self.classes >= 0
        of = self.classes[kept]
        for j in range(len(self.columns)):
            out[kept] &= self.allowed(j)[of, codes[kept, j]]
        return out

    def _index(self, column: int | str) -> int:
        if isinstance(column, int):
            return column
        return next(j for j, c in enumerate(self.columns) if c.name == column)
