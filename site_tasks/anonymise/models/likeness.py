"""Bounds on single sensitive values: (α,k)-anonymity, β-likeness, δ-disclosure privacy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from site_tasks.anonymise.models.base import (
    Counts,
    Figures,
    Flags,
    Model,
    at_most,
    below,
    occurring,
    shares,
)

__all__ = ["AlphaK", "BetaLikeness", "DeltaDisclosure"]


@dataclass(frozen=True)
class AlphaK(Model):
    """(α, k)-anonymity (Wong, Li, Fu, Wang: KDD 2006), in its general form.

    Every class has at least ``k`` rows, and no sensitive value takes more than a share of ``alpha``
    of them.  Stays true when classes merge, not when any rows are added.

    Parameters
    ----------
    alpha : float
        Above 0, at most 1.
    k : int
        At least 1.
    """

    alpha: float
    k: int = 1

    name: ClassVar[str] = "(α,k)-anonymity"

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """Share of the most frequent value of each class; see :meth:`Model.measure`."""
        return np.asarray(shares(counts).max(axis=1, initial=0.0))

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """Large enough, and no value too frequent; see :meth:`Model.holds`."""
        size = counts.sum(axis=1)
        rare = at_most(self.measure(counts, total), self.alpha)
        return np.asarray(((size >= self.k) & rare) | (size == 0))

    def __str__(self) -> str:
        return f"(α,k)-anonymity (α = {self.alpha:g}, k = {self.k})"


@dataclass(frozen=True)
class BetaLikeness(Model):
    """β-likeness (Cao & Karras: Publishing microdata with a robust privacy guarantee, VLDB 2012).

    The share q of every sensitive value in a class exceeds its share p in the whole table by at
    most ``beta`` times p (definition 2, basic), or by at most min(``beta``, -ln p) times p
    (definition 3, enhanced).  Stays true when classes merge, not when any rows are added.

    Parameters
    ----------
    beta : float
        Above 0.
    enhanced : bool
        Which of the two.
    """

    beta: float
    enhanced: bool = True

    name: ClassVar[str] = "β-likeness"

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """Largest (q - p) / p of each class; see :meth:`Model.measure`."""
        return np.asarray(_gain(*occurring(counts, total))[0].max(axis=1, initial=0.0))

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """No value gains too much; see :meth:`Model.holds`."""
        gain, p = _gain(*occurring(counts, total))
        within = at_most(gain, self.beta)
        if self.enhanced:
            # A value that all rows share has p = 1: it cannot gain, and its bound is 0.
            within &= at_most(gain + np.log(p), 0.0)
        return np.asarray(within.all(axis=1) | (counts.sum(axis=1) == 0))

    def __str__(self) -> str:
        return f"{'enhanced' if self.enhanced else 'basic'} β-likeness (β = {self.beta:g})"


@dataclass(frozen=True)
class DeltaDisclosure(Model):
    """δ-disclosure privacy (Brickell & Shmatikov: The cost of privacy, KDD 2008, definition 3).

    ``|ln(q / p)| < delta`` for the share q of every sensitive value of the table in every class and
    its share p in the whole table.  A value that is absent from a class has q = 0 and breaks the
    definition; ARX and pycanon leave such values out, as ``absent`` does.

    Stays true when classes merge, not when any rows are added; with ``absent`` not even when
    classes merge, since the absent value may become a rare one.

    Parameters
    ----------
    delta : float
        Above 0, in nats.
    absent : bool
        Whether values may be absent from a class.
    """

    delta: float
    absent: bool = False

    name: ClassVar[str] = "δ-disclosure privacy"

    @property
    def merging(self) -> bool:
        """Not with absent values."""
        return not self.absent

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """Largest ``|ln(q / p)|`` of each class; see :meth:`Model.measure`."""
        counts, total = occurring(counts, total)
        p = total / max(int(total.sum()), 1)
        ratio = np.full(counts.shape, np.inf)
        np.log(shares(counts) / p, out=ratio, where=counts > 0)
        if self.absent:
            ratio[counts == 0] = 0.0
        return np.asarray(np.abs(ratio).max(axis=1, initial=0.0))

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """No value is much rarer or more frequent; see :meth:`Model.holds`."""
        near = below(self.measure(counts, total), self.delta)
        return np.asarray(near | (counts.sum(axis=1) == 0))

    def __str__(self) -> str:
        rule = ", absent values allowed" if self.absent else ""
        return f"δ-disclosure privacy (δ = {self.delta:g}{rule})"


def _gain(counts: Counts, total: Counts) -> tuple[Figures, Figures]:
    """(q - p) / p of every class and value, and p."""
    p = total / max(int(total.sum()), 1)
    return np.asarray(shares(counts) / p - 1.0), np.asarray(p)
