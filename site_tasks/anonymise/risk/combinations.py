"""Which columns identify: uniqueness by every few columns together, and without each one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.risk.pairs import packed

__all__ = ["Combination", "identifying"]

#: Most combinations that are looked at; larger ones are left out first.
_MOST = 400


@dataclass(frozen=True)
class Combination:
    """Columns that together single rows out.

    Parameters
    ----------
    columns : tuple of str
        Their names.
    unique : float
        Share of rows that are alone in their values of these columns.
    distinct : int
        Combinations of values that occur.
    """

    columns: tuple[str, ...]
    unique: float
    distinct: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def identifying(
    codes: NDArray[Any], names: Sequence[str], radices: Sequence[int], *, most: int = 3
) -> list[Combination]:
    """Combinations of up to ``most`` columns, the most identifying first.

    Parameters
    ----------
    codes : ndarray of int, shape (n, q)
        Quasi-identifiers.
    names, radices : sequences of length q
        Name and number of codes of each.
    most : int
        Columns in a combination.

    Returns
    -------
    list of Combination
        O(combinations · distinct rows · log) time; equal rows are counted once.
    """
    n, width = codes.shape
    if not n or not width:
        return []
    key, _ = packed([codes[:, j] for j in range(width)], radices)
    _, first, rows = np.unique(key, return_index=True, return_counts=True)
    columns = [codes[first, j] for j in range(width)]
    while most > 1 and sum(comb(width, size) for size in range(1, most + 1)) > _MOST:
        most -= 1
    out = []
    for size in range(1, min(most, width) + 1):
        for chosen in combinations(range(width), size):
            key, _ = packed([columns[j] for j in chosen], [radices[j] for j in chosen])
            _, of = np.unique(key, return_inverse=True)
            sizes = np.bincount(of, weights=rows)
            unique = int(np.count_nonzero(sizes == 1))
            out.append(Combination(tuple(names[j] for j in chosen), unique / n, len(sizes)))
    return sorted(out, key=lambda c: (-c.unique, -c.distinct, len(c.columns), c.columns))
