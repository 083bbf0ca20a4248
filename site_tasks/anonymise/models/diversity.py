"""l-diversity: every class holds at least l well-represented sensitive values.

Machanavajjhala, Kifer, Gehrke, Venkitasubramaniam: l-diversity: privacy beyond k-anonymity (ICDE
2006; ACM TKDD 1(1), 2007), definitions 4.1 (entropy), 4.2 (recursive) and the distinct form of its
section 4.  A missing sensitive value counts as a value of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from site_tasks.anonymise.models.base import (
    SLACK,
    Counts,
    Figures,
    Flags,
    Model,
    at_least,
)

__all__ = ["DistinctLDiversity", "EntropyLDiversity", "RecursiveCLDiversity"]


@dataclass(frozen=True)
class DistinctLDiversity(Model):
    """At least ``l`` distinct sensitive values in every class.

    Stays true when classes merge, and when rows are added to a class.

    Parameters
    ----------
    l : int
        At least 1.
    """

    l: int  # noqa: E741 - the literature's name

    name: ClassVar[str] = "distinct l-diversity"
    growing: ClassVar[bool] = True

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """Distinct values of each class; see :meth:`Model.measure`."""
        return np.asarray(np.count_nonzero(counts, axis=1), np.float64)

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """At least ``l`` distinct values; see :meth:`Model.holds`."""
        found = np.count_nonzero(counts, axis=1)
        return np.asarray((found >= self.l) | (found == 0))

    def __str__(self) -> str:
        return f"distinct l-diversity (l = {self.l})"


@dataclass(frozen=True)
class EntropyLDiversity(Model):
    """The entropy of the sensitive values of every class is at least ln ``l``.

    Stays true when classes merge (entropy is concave), not when any rows are added.

    Parameters
    ----------
    l : float
        At least 1; need not be whole.
    """

    l: float  # noqa: E741 - the literature's name

    name: ClassVar[str] = "entropy l-diversity"

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """exp of the entropy (nats) of each class; see :meth:`Model.measure`."""
        size = np.maximum(counts.sum(axis=1), 1)
        logs = np.log(np.maximum(counts, 1))
        return np.asarray(np.exp(np.log(size) - (counts * logs).sum(axis=1) / size))

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """Entropy of at least ln ``l``; see :meth:`Model.holds`."""
        diverse = at_least(self.measure(counts, total), self.l)
        return np.asarray(diverse | (counts.sum(axis=1) == 0))

    def __str__(self) -> str:
        return f"entropy l-diversity (l = {self.l:g})"


@dataclass(frozen=True)
class RecursiveCLDiversity(Model):
    """Recursive (c, l)-diversity: ``r1 < c (r_l + … + r_m)``.

    ``r1 >= r2 >= … >= r_m`` are the counts of the sensitive values of a class: the most frequent
    value stays rare after any l - 2 others are ruled out.  Stays true when classes merge, not when
    any rows are added.

    Parameters
    ----------
    c : float
        Above 0.
    l : int
        At least 1.
    """

    c: float
    l: int  # noqa: E741 - the literature's name

    name: ClassVar[str] = "recursive (c,l)-diversity"

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """``r1 / (r_l + … + r_m)``, which must stay below c; see :meth:`Model.measure`."""
        most, rest = self._parts(counts)
        out = np.full(len(counts), np.inf)
        np.divide(most, rest, out=out, where=rest > 0)
        return out

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """``r1 < c (r_l + … + r_m)``; see :meth:`Model.holds`."""
        most, rest = self._parts(counts)
        return np.asarray((most < self.c * rest * (1 - SLACK)) | (most == 0))

    def _parts(self, counts: Counts) -> tuple[Counts, Counts]:
        if self.l <= 2:  # without sorting: the rest is all, or all but the most frequent
            most = counts.max(axis=1, initial=0)
            return most, counts.sum(axis=1) - (most if self.l == 2 else 0)
        if self.l > counts.shape[1]:
            return counts.max(axis=1, initial=0), np.zeros(len(counts), counts.dtype)
        ranked = -np.sort(-counts, axis=1)
        return ranked[:, 0], ranked[:, self.l - 1 :].sum(axis=1)

    def __str__(self) -> str:
        return f"recursive (c,l)-diversity (c = {self.c:g}, l = {self.l})"
