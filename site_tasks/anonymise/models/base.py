"""What all privacy models share: the question asked of them, and what a search may conclude.

Classes are given as counts, one row per class and one column per value:

========== ==========================================================================
``reads``   the columns of ``counts``
========== ==========================================================================
size        any: only the rows of each class matter
sensitive   values of the sensitive column in its public order, the missing value last
presence    two: people of the population table alone, people of the table itself
========== ==========================================================================

The whole table (``total``) is the table that will be published: where rows are suppressed, ask
:func:`settled`, which leaves classes out until the rest holds against the rest's distribution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["SLACK", "Counts", "Flags", "Model", "settled"]

Counts = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]
Figures = NDArray[np.float64]

#: Relative error allowed for rounding where a figure may equal its bound; the obvious checker of
#: ``site_tasks.anonymise.verify`` allows more, so that it never refuses what was accepted here.
SLACK = 1e-12


@dataclass(frozen=True)
class Model(ABC):
    """A privacy model with its parameters."""

    name: ClassVar[str]
    """As the literature writes it."""
    reads: ClassVar[Literal["size", "sensitive", "presence"]] = "sensitive"
    """What the columns of ``counts`` are."""
    growing: ClassVar[bool] = False
    """Whether a class that holds also holds after any rows are added to it.  Then a class that
    fails has no part that holds, and suppressing failing classes leaves fewer rows out the more is
    generalised: full-domain searches may prune by it."""

    @property
    def merging(self) -> bool:
        """Whether two classes that hold also hold as one (the generalisation property).

        Then generalising a table that satisfies the model never breaks it, and where a class fails
        every way of splitting it leaves a part that fails.
        """
        return True

    @abstractmethod
    def measure(self, counts: Counts, total: Counts) -> Figures:
        """The figure that the model bounds, for each class.

        Parameters
        ----------
        counts : ndarray of int, shape (classes, values)
            Rows per class and value; see ``reads``.
        total : ndarray of int, shape (values,)
            Rows of the whole table per value.

        Returns
        -------
        ndarray of float64, shape (classes,)
        """

    @abstractmethod
    def holds(self, counts: Counts, total: Counts) -> Flags:
        """Whether each class satisfies the model; O(classes · values), no loop in Python.

        Parameters
        ----------
        counts : ndarray of int, shape (classes, values)
            Rows per class and value; see ``reads``.  A class without rows holds.
        total : ndarray of int, shape (values,)
            Rows of the whole table per value.

        Returns
        -------
        ndarray of bool, shape (classes,)
        """

    @abstractmethod
    def __str__(self) -> str:
        """Name and parameters, for people."""


def settled(models: Sequence[Model], counts: Counts, total: Counts | None = None) -> Flags:
    """Classes that may be published when all others are suppressed.

    Suppression changes the distribution of the table that is published, and with it what
    t-closeness, β-likeness and δ-disclosure ask of the classes that are left.  So classes are left
    out until the rest holds against itself; at most one pass per class, two where every model is
    blind to the whole table.

    Parameters
    ----------
    models : sequence of Model
        All of them read the same kind of counts, or sizes.
    counts : ndarray of int, shape (classes, values)
        Rows per class and value.
    total : ndarray of int, shape (values,), optional
        Holds the reference distribution fixed instead, such as the table before suppression.

    Returns
    -------
    ndarray of bool, shape (classes,)
    """
    kept = np.ones(len(counts), np.bool_)
    while True:
        whole = counts[kept].sum(axis=0) if total is None else total
        found = kept.copy()
        for model in models:
            found[kept] &= model.holds(counts[kept], whole)
        if found.all() or np.array_equal(found, kept):
            return found
        kept = found


def shares(counts: Counts) -> Figures:
    """Share of every value within its class; zero in a class without rows."""
    size = counts.sum(axis=1, keepdims=True)
    return np.asarray(counts / np.maximum(size, 1))


def occurring(counts: Counts, total: Counts) -> tuple[Counts, Counts]:
    """Without the values that do not occur in the table: a bound must not depend on them."""
    found = total > 0
    return (counts, total) if found.all() else (counts[:, found], total[found])


def at_most(figures: Figures, bound: float) -> Flags:
    """``figures <= bound``, equal figures included whatever the rounding."""
    return np.asarray(figures <= bound + SLACK * max(abs(bound), 1.0))


def at_least(figures: Figures, bound: float) -> Flags:
    """``figures >= bound``, equal figures included whatever the rounding."""
    return np.asarray(figures >= bound - SLACK * max(abs(bound), 1.0))


def below(figures: Figures, bound: float) -> Flags:
    """``figures < bound``, equal figures excluded whatever the rounding."""
    return np.asarray(figures < bound - SLACK * max(abs(bound), 1.0))
