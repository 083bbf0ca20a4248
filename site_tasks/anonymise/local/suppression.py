"""Cell suppression: rows of small classes keep most of their cells and hide a few.

Where rows of equal cells are fewer than k, columns are hidden for all such rows, one after the
other: always the one after which the fewest rows are left over.  Rows that reach k stop there.
Greedy, after Sweeney (IJUFKS 10(5), 2002), who suppresses local cells in place of generalising the
whole column.  O(columns² · rows · log rows).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import DataError
from site_tasks.anonymise.coded import Coded
from site_tasks.anonymise.recoding import Cells, Ranges, Recoding, Sets

__all__ = ["suppress_cells"]


def suppress_cells(coded: Coded, k: int, *, suppression_limit: float = 0.0) -> Recoding:
    """Publish values as they are, hiding single cells until every class has ``k`` rows.

    Parameters
    ----------
    coded : Coded
        The table, generalised already or not.
    k : int
        Rows of every class, at least.
    suppression_limit : float
        Share of the rows that may be suppressed whole, where all of their cells would be hidden.

    Returns
    -------
    Recoding
        A hidden cell allows every value, the missing one included.

    Raises
    ------
    DataError
        ``data.too-few-rows`` for fewer rows than k; ``data.suppression`` where rows are left over
        that the limit does not cover.
    """
    if coded.rows < k:
        raise DataError(
            "data.too-few-rows",
            f"The table has {coded.rows} rows, fewer than k = {k}.",
            "Lower k, or leave this dataset out.",
        )
    q = len(coded.columns)
    shown = np.ones((coded.rows, q), np.bool_)
    left = np.flatnonzero(_sizes(coded.codes) < k)
    hidden: list[int] = []
    while len(left) and len(hidden) < q:
        others = [j for j in range(q) if j not in hidden]
        short = {j: _sizes(np.delete(coded.codes[left], [*hidden, j], axis=1)) < k for j in others}
        best = min(others, key=lambda j: (int(short[j].sum()), j))
        hidden.append(best)
        shown[left, best] = False
        left = left[short[best]]
    if len(left) > suppression_limit * coded.rows:
        raise DataError(
            "data.suppression",
            f"{len(left)} of {coded.rows} rows are alone even without any of their cells, more "
            "than the limit of suppression allows.",
            "Lower k, raise the limit, or generalise before cells are suppressed.",
        )
    sizes = np.array([column.size for column in coded.columns])
    cells = np.where(shown, coded.codes, sizes)
    kept = np.ones(coded.rows, np.bool_)
    kept[left] = False
    values, number = np.unique(cells[kept], axis=0, return_inverse=True)
    classes = np.full(coded.rows, -1, np.int32)
    classes[kept] = number.reshape(-1)
    return Recoding(coded.columns, classes, _cells(coded, values))


def _sizes(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Rows equal to each row; all are where no column is left."""
    if not codes.shape[1] or not len(codes):
        return np.full(len(codes), len(codes), np.int64)
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse.reshape(-1)], np.int64)


def _cells(coded: Coded, values: NDArray[np.int32]) -> tuple[Cells, ...]:
    out: list[Cells] = []
    for j, column in enumerate(coded.columns):
        allowed = np.arange(column.size) == values[:, j : j + 1]
        allowed[values[:, j] == column.size] = True
        if not column.ordered:
            out.append(Sets.of(allowed))
            continue
        code = values[:, j]
        hidden, absent = code == column.size, code == column.missing
        low = np.where(hidden, 0, code).astype(np.int32)
        high = np.where(hidden | absent, column.missing - 1, code).astype(np.int32)
        out.append(Ranges(low, high, hidden | absent))
    return tuple(out)
