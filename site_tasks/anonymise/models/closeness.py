"""t-closeness: the sensitive values of a class are distributed as in the whole table.

Li, Li, Venkatasubramanian: t-closeness: privacy beyond k-anonymity and l-diversity (ICDE 2007).
Distributions are compared by the earth mover's distance over one of the paper's three ground
distances: equal, ordered (section 5.1, "numerical") and hierarchical (section 5.2, "categorical").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from site_tasks.anonymise.models.base import Counts, Figures, Flags, Model, at_most, occurring

__all__ = ["TCloseness"]


@dataclass(frozen=True)
class TCloseness(Model):
    """The distance of every class from the whole table is at most ``t``.

    Stays true when classes merge (the distance is convex), not when any rows are added.

    Parameters
    ----------
    t : float
        Between 0 and 1.
    distance : {"equal", "ordered", "hierarchical"}
        ``equal``: all values are as far from each other (then the distance is half the sum of the
        differences).  ``ordered``: by the ranks of the values that occur in the table.
        ``hierarchical``: by the height of the lowest common ancestor.
    levels : tuple of tuple of int
        For ``hierarchical``: group of every value (the missing one last) per level from 1, each
        group of a level within one group of the next, all in one group on the last.
    """

    t: float
    distance: Literal["equal", "ordered", "hierarchical"] = "equal"
    levels: tuple[tuple[int, ...], ...] = ()

    name: ClassVar[str] = "t-closeness"

    def measure(self, counts: Counts, total: Counts) -> Figures:
        """Earth mover's distance of each class; see :meth:`Model.measure`."""
        if self.distance == "hierarchical":
            return self._hierarchical(counts, total)
        counts, total = occurring(counts, total)
        extra = _extra(counts, total)
        if self.distance == "equal":
            return np.asarray(np.abs(extra).sum(axis=1) / 2)
        steps = max(len(total) - 1, 1)
        return np.asarray(np.abs(np.cumsum(extra, axis=1)).sum(axis=1) / steps)

    def _hierarchical(self, counts: Counts, total: Counts) -> Figures:
        """Cost of every ancestor: its height times what moves between its children."""
        extra = _extra(counts, total)
        group = np.arange(len(total))
        out = np.zeros(len(counts))
        for height, level in enumerate(self.levels, 1):
            above = np.asarray(level)
            parents = int(above.max()) + 1
            # Parent of every node of the level below (all its values agree).
            of = np.zeros(extra.shape[1], np.int64)
            of[group] = above
            belongs = np.zeros((extra.shape[1], parents))
            belongs[np.arange(len(of)), of] = 1.0
            moved = np.minimum(np.maximum(extra, 0) @ belongs, np.maximum(-extra, 0) @ belongs)
            out += height / len(self.levels) * moved.sum(axis=1)
            extra, group = extra @ belongs, above
        return out

    def holds(self, counts: Counts, total: Counts) -> Flags:
        """Distance of at most ``t``; see :meth:`Model.holds`."""
        near = at_most(self.measure(counts, total), self.t)
        return np.asarray(near | (counts.sum(axis=1) == 0))

    def __str__(self) -> str:
        return f"t-closeness (t = {self.t:g}, {self.distance} distance)"


def _extra(counts: Counts, total: Counts) -> Figures:
    """Share of each value in the class less its share in the table."""
    size = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.asarray(counts / size - total / max(int(total.sum()), 1))
