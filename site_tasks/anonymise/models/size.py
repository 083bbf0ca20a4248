"""k-anonymity: nobody can be told apart from k - 1 others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from site_tasks.anonymise.models.base import Counts, Figures, Flags, Model

__all__ = ["KAnonymity"]


@dataclass(frozen=True)
class KAnonymity(Model):
    """k-anonymity (Samarati & Sweeney 1998; Sweeney 2002).

    Every combination of values of the quasi-identifiers is shared by at least ``k`` rows.
    Stays true when classes merge, and when rows are added to a class.

    Parameters
    ----------
    k : int
        At least 1.
    """

    k: int

    name: ClassVar[str] = "k-anonymity"
    reads: ClassVar[Literal["size", "sensitive", "presence"]] = "size"
    growing: ClassVar[bool] = True

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """Rows of each class; see :meth:`Model.measure`."""
        return np.asarray(counts.sum(axis=1), np.float64)

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """At least ``k`` rows; see :meth:`Model.holds`."""
        size = counts.sum(axis=1)
        return np.asarray((size >= self.k) | (size == 0))

    def __str__(self) -> str:
        return f"k-anonymity (k = {self.k})"
