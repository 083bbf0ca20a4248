"""A value generalisation hierarchy as arrays, and the checks that make it one.

Level 0 is the value itself; each level merges groups of the level before and never divides one, so
that classes of equal rows only grow with the level (Samarati & Sweeney 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError

__all__ = ["ValueHierarchy", "fault"]

Groups = NDArray[np.int32]


@dataclass(frozen=True)
class ValueHierarchy:
    """The groups of a column's public values at every level.

    Parameters
    ----------
    source : str
        File or column, for errors.
    domain : tuple
        Public values (text or numbers), or midpoints of the finest intervals where ``width``.
    groups : tuple of ndarray of int32, each of shape (len(domain),)
        Group of every value per level from 1, numbered by first appearance.
    labels : tuple of tuple of str
        Names of the groups per level from 1.
    ordered : bool
        Whether the order of ``domain`` means anything.
    width : float
        Above 0: values of ``domain`` stand for half-open intervals of this width around them, the
        last one closed; level 0 (the exact number) then has no code of its own and equals level 1
        here.

    Raises
    ------
    ConfigError
        ``config.hierarchy`` for levels that do not nest.
    """

    source: str
    domain: tuple[Any, ...]
    groups: tuple[Groups, ...] = ()
    labels: tuple[tuple[str, ...], ...] = ()
    ordered: bool = False
    width: float = 0.0

    def __post_init__(self) -> None:
        if not self.domain:
            raise fault(self.source, "has no values")
        chain: list[NDArray[Any]] = [np.arange(len(self.domain)), *self.groups]
        for level, (finer, coarser) in enumerate(pairwise(chain), 1):
            if not _nests(finer, coarser):
                raise fault(
                    self.source,
                    f"divides a group of level {level - 1} between groups of level {level}",
                )
            if self.ordered and (np.diff(coarser) < 0).any():
                raise fault(
                    self.source, f"has a group at level {level} that is no run of neighbours"
                )

    @property
    def depth(self) -> int:
        """The highest level."""
        return len(self.groups)

    @property
    def lowest(self) -> int:
        """The lowest level at which values have codes: 1 for intervals, else 0."""
        return 1 if self.width else 0

    def at(self, level: int) -> Groups:
        """Group of every value of the domain; shape (len(domain),).

        Raises
        ------
        ConfigError
            ``config.hierarchy`` for a level that does not exist.
        """
        if not 0 <= level <= self.depth:
            raise fault(
                self.source,
                f"has no level {level}: it ends at level {self.depth}",
                "Choose a lower level, or give the contract a deeper hierarchy.",
            )
        if level == 0:
            return np.arange(len(self.domain), dtype=np.int32)
        return self.groups[level - 1]

    def names(self, level: int) -> tuple[str, ...]:
        """Names of the groups at a level, by number."""
        self.at(level)
        return tuple(map(str, self.domain)) if level == 0 else self.labels[level - 1]

    def restricted(self, domain: Sequence[Any]) -> ValueHierarchy:
        """The same hierarchy over fewer values, in the order given; O(values · levels).

        Raises
        ------
        ConfigError
            ``config.hierarchy`` where it has no row for one of them.
        """
        row = {value: i for i, value in enumerate(self.domain)}
        absent = sum(value not in row for value in domain)
        if absent:
            raise fault(
                self.source,
                f"leaves out {absent} of the column's {len(domain)} public values",
                "Give every public value a row, with a group at every level.",
            )
        keep = np.array([row[value] for value in domain], np.int64)
        found = [renumbered(g[keep], n) for g, n in zip(self.groups, self.labels, strict=True)]
        return ValueHierarchy(
            self.source,
            tuple(domain),
            tuple(groups for groups, _ in found),
            tuple(names for _, names in found),
            self.ordered,
            self.width,
        )

    @staticmethod
    def of_rows(
        rows: Sequence[Sequence[str]], source: str, *, ordered: bool = False
    ) -> ValueHierarchy:
        """From a table with one row per value: the value, then its group at each level.

        Raises
        ------
        ConfigError
            ``config.hierarchy`` for uneven depth, gaps, repeated values, cycles and groups that a
            level divides; rows are named by number, never by value.
        """
        if not rows:
            raise fault(source, "has no rows")
        depth = len(rows[0])
        first: dict[str, int] = {}
        for number, row in enumerate(rows, 1):
            if len(row) != depth:
                raise fault(
                    source,
                    f"has uneven depth: row {number} has {len(row)} cells, row 1 has {depth}",
                    "Give every value a group at every level; repeat a group that stays as it is.",
                )
            if "" in row:
                level = row.index("")
                what = "has no value" if level == 0 else f"has no group at level {level}"
                raise fault(source, f"has a gap: row {number} {what}", "Fill the empty cell.")
            if row[0] in first:
                raise fault(
                    source,
                    f"has the value of row {first[row[0]]} again in row {number}",
                    "Keep one row per value.",
                )
            first[row[0]] = number
            if _turns(row):
                raise fault(
                    source,
                    f"has a cycle: row {number} comes back to a group that it had left",
                    "Let every level merge groups of the level before.",
                )
        found = [_numbered([row[level] for row in rows]) for level in range(1, depth)]
        return ValueHierarchy(
            source,
            tuple(row[0] for row in rows),
            tuple(groups for groups, _ in found),
            tuple(names for _, names in found),
            ordered,
        )


def fault(
    source: str, what: str, remedy: str = "Mend the hierarchy at every site alike."
) -> ConfigError:
    """The error of a hierarchy."""
    return ConfigError("config.hierarchy", f"The hierarchy of {source} {what}.", remedy)


def renumbered(groups: Groups, names: Sequence[str]) -> tuple[Groups, tuple[str, ...]]:
    """Groups numbered by first appearance, with their names."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[inverse].astype(np.int32), tuple(names[groups[i]] for i in np.sort(first))


def _numbered(labels: Sequence[str]) -> tuple[Groups, tuple[str, ...]]:
    number: dict[str, int] = {}
    groups = np.array([number.setdefault(label, len(number)) for label in labels], np.int32)
    return groups, tuple(number)


def _turns(row: Sequence[str]) -> bool:
    """Whether a label comes back after another one."""
    changed = [b for a, b in pairwise(row) if a != b]
    return len({row[0], *changed}) < len(changed) + 1


def _nests(finer: NDArray[Any], coarser: NDArray[Any]) -> bool:
    if len(finer) != len(coarser):
        return False
    of = np.zeros(int(finer.max()) + 1, np.int64)
    of[finer] = coarser
    return bool((of[finer] == coarser).all())
