"""The table that every anonymiser works on: integer codes over public domains.

A :class:`Coded` table holds one code per row and quasi-identifier; what an anonymiser makes of it is
a :class:`~site_tasks.anonymise.recoding.Recoding`.  Domains are public (the contract's, a
hierarchy's), never read from the rows.  A missing value has a code of its own behind the domain's
last.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from site_tasks.anonymise.secret import Secret

__all__ = ["Coded", "Codes", "Column", "Distinct", "encode"]

Codes = NDArray[np.int32]
_LIMIT = 2**62


@dataclass(frozen=True)
class Column:
    """A column and its public values.

    Parameters
    ----------
    name : str
        Name in the table.
    ordered : bool
        Whether the order of ``domain`` means anything: cells then allow ranges, else sets.
    domain : tuple
        Public values (text or numbers), distinct; in order where ``ordered``.
    levels : tuple of ndarray of int32, each of shape (len(domain),)
        Group of every value per level of a hierarchy, from level 1; empty without a hierarchy.
    width : float
        Ordered numbers only: each value of ``domain`` stands for the interval of this width around
        it (half open, the last one closed); 0 where values are exact.
    """

    name: str
    ordered: bool
    domain: tuple[Any, ...]
    levels: tuple[Codes, ...] = ()
    width: float = 0.0

    @property
    def missing(self) -> int:
        """Code of a missing value."""
        return len(self.domain)

    @property
    def size(self) -> int:
        """Number of codes, the missing one included."""
        return len(self.domain) + 1


@dataclass(frozen=True)
class Distinct:
    """Distinct rows of a table, sorted by their codes.

    Parameters
    ----------
    codes : ndarray of int32, shape (m, q)
        The distinct combinations, in lexicographic order.
    sensitive : ndarray of int32, shape (m,), or None
        Sensitive code of each, where asked for: then (codes, sensitive) are distinct pairs.
    counts : ndarray of int64, shape (m,)
        Rows of each.
    inverse : ndarray of int32, shape (n,)
        Distinct row of every row.
    """

    codes: Codes
    sensitive: Codes | None
    counts: NDArray[np.int64]
    inverse: Codes


@dataclass(frozen=True)
class Coded:
    """A table as codes.

    Parameters
    ----------
    columns : tuple of Column
        The quasi-identifiers, q of them.
    codes : ndarray of int32, shape (n, q)
        ``column.missing`` where missing.  Column-major is fastest.
    sensitive : ndarray of int32, shape (n,), or None
        Code of the sensitive value; ``len(sensitive_domain)`` where missing.
    sensitive_domain : tuple
        Public values of the sensitive column.
    """

    columns: tuple[Column, ...]
    codes: Codes
    sensitive: Codes | None = None
    sensitive_domain: tuple[Any, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows n."""
        return int(self.codes.shape[0])

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        columns: Sequence[Column],
        sensitive: Column | Secret | None = None,
    ) -> Coded:
        """Encode a frame, whatever its index; O(rows · columns).

        Parameters
        ----------
        frame : pandas.DataFrame, shape (n, …)
            Holds all columns that are named.
        columns : sequence of Column
            The quasi-identifiers.
        sensitive : Column or Secret, optional
            The sensitive column or columns.

        Raises
        ------
        DataError
            ``data.column`` for a column that is not there; ``data.contract`` for values outside
            the public domain, with column and count.
        """
        codes = np.empty((len(frame), len(columns)), np.int32, order="F")
        for j, column in enumerate(columns):
            codes[:, j] = encode(_series(frame, column), column)
        if sensitive is None:
            return cls(tuple(columns), codes)
        if isinstance(sensitive, Column):
            found = encode(_series(frame, sensitive), sensitive)
        else:
            found = sensitive.encode(frame)
        return cls(tuple(columns), codes, found, sensitive.domain)

    def distinct(self, *, sensitive: bool = False) -> Distinct:
        """Equal rows counted once; O(n log n).

        Parameters
        ----------
        sensitive : bool
            Whether rows of different sensitive values stay apart.
        """
        n = self.rows
        parts = [(self.codes[:, j], c.size) for j, c in enumerate(self.columns)]
        if sensitive and self.sensitive is not None:
            parts.append((self.sensitive, len(self.sensitive_domain) + 1))
        key, radix = np.zeros(n, np.int64), 1
        for codes, size in parts:
            if radix * size >= _LIMIT:  # numbered anew, in the same order: then it fits
                values, key = np.unique(key, return_inverse=True)
                radix = len(values)
            key = key * size + codes
            radix *= size
        _, first, inverse, counts = np.unique(
            key, return_index=True, return_inverse=True, return_counts=True
        )
        kept = self.sensitive[first] if sensitive and self.sensitive is not None else None
        return Distinct(
            np.asfortranarray(self.codes[first]),
            kept,
            counts.astype(np.int64),
            inverse.astype(np.int32),
        )


def encode(series: pd.Series[Any], column: Column) -> Codes:
    """Codes of a column's values; O(n + distinct values).

    Parameters
    ----------
    series : pandas.Series, shape (n,)
        Numbers, text, booleans or a pandas categorical.
    column : Column
        With its public domain.

    Returns
    -------
    ndarray of int32, shape (n,)

    Raises
    ------
    DataError
        ``data.contract`` where values lie outside the domain: column and count, never a value.
    """
    import pandas as pd

    indices, uniques = pd.factorize(series)
    table = np.full(len(uniques) + 1, column.missing, np.int32)  # the last entry serves index -1
    if column.width:
        table[:-1] = _in_intervals(np.asarray(uniques, np.float64), column)
    else:
        code = {value: i for i, value in enumerate(column.domain)}
        for i, value in enumerate(uniques.tolist()):
            table[i] = next((code[s] for s in _spellings(value) if s in code), -1)
    codes: Codes = table[indices]
    outside = int(np.count_nonzero(codes < 0))
    if outside:
        raise DataError(
            "data.contract",
            f"Column {column.name}: {outside} values lie outside its public domain.",
            "Add them to the contract's categories, bounds or hierarchy, or correct the rows.",
        )
    return codes


def _in_intervals(values: NDArray[np.float64], column: Column) -> Codes:
    """Interval of every number; -1 outside all of them."""
    lower = float(column.domain[0]) - column.width / 2
    last = len(column.domain) - 1
    index = np.floor((values - lower) / column.width)
    index[values == lower + (last + 1) * column.width] = last
    return np.where((index >= 0) & (index <= last), index, -1).astype(np.int32)


def _spellings(value: Hashable) -> Iterable[Any]:
    """Ways in which a domain may write a value (contracts write numbers and booleans as text)."""
    if isinstance(value, bool):
        return (value, "true", "True", "1") if value else (value, "false", "False", "0")
    if isinstance(value, float) and value.is_integer():
        return (value, str(int(value)), str(value))
    return (value, str(value))


def _series(frame: pd.DataFrame, column: Column) -> pd.Series[Any]:
    if column.name not in frame.columns:
        raise DataError(
            "data.column",
            f"The table has no column {column.name}.",
            "Name the column as the contract does.",
        )
    return frame[column.name]
