"""Models that need a population table: who could be in the table, and how surely somebody is.

The population table holds everybody who might be in the table, those who are included.  Both are
recoded alike, and the classes are counted over the population with two values: in the population
alone, and in the table too (:func:`presence`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from site_tasks.anonymise.models.base import Counts, Figures, Flags, Model, at_least, at_most

__all__ = ["DeltaPresence", "KMap", "presence"]


def presence(population: Counts, table: Counts) -> Counts:
    """Counts for the models of this module.

    Parameters
    ----------
    population : ndarray of int, shape (classes,)
        People of the population table in each class, those of the table included.
    table : ndarray of int, shape (classes,)
        Rows of the table in each class.

    Returns
    -------
    ndarray of int, shape (classes, 2)

    Raises
    ------
    ValueError
        Where a class has more rows than the population has people.
    """
    alone = np.asarray(population) - np.asarray(table)
    if (alone < 0).any():
        raise ValueError("the population table must hold everybody who is in the table")
    return np.stack([alone, table], axis=1)


@dataclass(frozen=True)
class KMap(Model):
    """k-map (Sweeney: Computational disclosure control, PhD thesis, MIT 2001).

    Every row of the table could be any of at least ``k`` people of the population.  Stays true when
    classes merge.

    Parameters
    ----------
    k : int
        At least 1.
    """

    k: int

    name: ClassVar[str] = "k-map"
    reads: ClassVar[Literal["size", "sensitive", "presence"]] = "presence"

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """People of each class that holds rows of the table, else ∞; see :meth:`Model.measure`."""
        return np.where(counts[:, 1] > 0, counts.sum(axis=1), np.inf)

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """At least ``k`` people, or nobody of the table; see :meth:`Model.holds`."""
        return np.asarray((counts.sum(axis=1) >= self.k) | (counts[:, 1] == 0))

    def __str__(self) -> str:
        return f"k-map (k = {self.k})"


@dataclass(frozen=True)
class DeltaPresence(Model):
    """δ-presence (Nergiz, Atzori, Clifton: Hiding the presence of individuals, SIGMOD 2007).

    Whoever finds somebody of the population in a class believes them to be in the table with a
    probability of at least ``low`` and at most ``high``.  Stays true when classes merge.

    Parameters
    ----------
    low, high : float
        ``0 <= low <= high <= 1``.  A ``low`` above 0 also asks it of classes that hold nobody of
        the table.
    """

    low: float
    high: float

    name: ClassVar[str] = "δ-presence"
    reads: ClassVar[Literal["size", "sensitive", "presence"]] = "presence"

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """Share of the people of each class who are in the table; see :meth:`Model.measure`."""
        return np.asarray(counts[:, 1] / np.maximum(counts.sum(axis=1), 1))

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """A share between ``low`` and ``high``; see :meth:`Model.holds`."""
        share = self.measure(counts, total)
        within = at_least(share, self.low) & at_most(share, self.high)
        return np.asarray(within | (counts.sum(axis=1) == 0))

    def __str__(self) -> str:
        return f"δ-presence ({self.low:g} ≤ δ ≤ {self.high:g})"
