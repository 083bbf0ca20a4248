"""The lattice of levels, and the loss of each level without any suppression.

A node gives every column a level.  Node x lies below node y where no level of x is higher: then y's
classes are unions of x's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError
from site_tasks.anonymise.coded import Codes, Column

__all__ = ["MOST_NODES", "Lattice", "Node"]

Node = tuple[int, ...]
Floats = NDArray[np.float64]
#: More nodes than any search finishes; their bounds alone would take hundreds of megabytes.
MOST_NODES = 20_000_000


@dataclass(frozen=True)
class Lattice:
    """All combinations of levels from ``lowest`` to the top of each hierarchy.

    Parameters
    ----------
    columns : tuple of Column
        The quasi-identifiers, with their hierarchies.
    lowest : tuple of int
        Lowest level per column that may be chosen.
    """

    columns: tuple[Column, ...]
    lowest: Node

    @staticmethod
    def of(columns: Sequence[Column], lowest: Mapping[str, int] | None = None) -> Lattice:
        """Of columns, from the lowest levels given (by name) on.

        Raises
        ------
        ConfigError
            ``config.hierarchy`` for a level that does not exist, and for a column of numbers without
            intervals; ``config.invalid`` for more than 20 million nodes or unknown columns.
        """
        given = dict(lowest or {})
        unknown = sorted(given.keys() - {column.name for column in columns})
        if unknown:
            raise ConfigError(
                "config.invalid",
                f"Levels are given for {unknown[0]}, which is no quasi-identifier.",
                f"Name some of: {', '.join(column.name for column in columns)}.",
            )
        found = []
        for column in columns:
            least = 1 if column.width else 0  # exact numbers have no code of their own
            level = max(given.get(column.name, 0), least)
            if level > len(column.levels):
                raise ConfigError(
                    "config.hierarchy",
                    f"The hierarchy of column {column.name} has no level {level}: it ends at level "
                    f"{len(column.levels)}.",
                    "Choose a lower level, or give the contract a deeper hierarchy.",
                )
            found.append(level)
        lattice = Lattice(tuple(columns), tuple(found))
        if lattice.nodes > MOST_NODES:
            raise ConfigError(
                "config.invalid",
                f"The quasi-identifiers span {lattice.nodes} combinations of levels, more than "
                f"{MOST_NODES}.",
                "Give lowest levels (anonymisation.levels), or use local recoding.",
            )
        return lattice

    @property
    def shape(self) -> Node:
        """Number of levels per column."""
        return tuple(
            len(c.levels) + 1 - least for c, least in zip(self.columns, self.lowest, strict=True)
        )

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return int(np.prod([float(size) for size in self.shape]))

    def node(self, levels: Mapping[str, int]) -> Node:
        """Node (an index into arrays of :attr:`shape`) of levels by name; the lowest by default.

        Raises
        ------
        ConfigError
            As :meth:`of`.
        """
        lattice = Lattice.of(self.columns, levels)
        pairs = zip(self.columns, lattice.lowest, self.lowest, strict=True)
        return tuple(max(level - least, 0) for _, level, least in pairs)

    def levels(self, node: Node) -> dict[str, int]:
        """Level by column of a node."""
        pairs = zip(self.columns, node, self.lowest, strict=True)
        return {column.name: int(index + least) for column, index, least in pairs}

    def groups(self, column: int, index: int) -> Codes:
        """Group of every code at a level of the lattice, missing last; shape (domain + 1,)."""
        return self._groups[column][index]

    @cached_property
    def _groups(self) -> list[list[Codes]]:
        return [[self._group(j, i) for i in range(size)] for j, size in enumerate(self.shape)]

    def _group(self, column: int, index: int) -> Codes:
        level = index + self.lowest[column]
        found = self.columns[column]
        if level == 0:
            return np.arange(found.size, dtype=np.int32)
        groups = found.levels[level - 1]
        # A missing value is a group of its own at every level: it never widens a class.
        return np.append(groups, groups.max() + 1).astype(np.int32)

    @cached_property
    def _losses(self) -> list[list[Floats]]:
        return [
            [self._loss(self.groups(j, i), column) for i in range(size)]
            for j, (column, size) in enumerate(zip(self.columns, self.shape, strict=True))
        ]

    def loss(self, column: int, index: int) -> Floats:
        """Loss of the cell of every code at a level, (allowed - 1) / (domain - 1)."""
        return self._losses[column][index]

    @staticmethod
    def _loss(groups: Codes, column: Column) -> Floats:
        allowed = np.bincount(groups)[groups]
        return np.asarray((allowed - 1) / max(len(column.domain) - 1, 1))
