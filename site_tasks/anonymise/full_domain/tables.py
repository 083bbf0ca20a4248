"""Class tables: the equivalence classes of a node, rolled up from those of a finer one.

Rows are looked at once: after that a node's classes are counted from the classes of any node below
it, which are fewer with every level (LeFevre, DeWitt, Ramakrishnan: Incognito, SIGMOD 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.coded import Coded, Codes
from site_tasks.anonymise.full_domain.lattice import Lattice, Node
from site_tasks.anonymise.models import Model, settled

__all__ = ["Outcome", "Present", "Table"]

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
#: Keys are counted by their place where the room for all of them is at most this often the classes.
_SPARSE = 128
_ROOM = 2**24
_LIMIT = 2**62


@dataclass(frozen=True)
class Outcome:
    """What becomes of the table at a node.

    Parameters
    ----------
    extra : float
        What suppression adds to the loss: 1 less the loss of its cells for every row, over all rows.
    suppressed : int
        Rows suppressed.
    least_extra : float
        What suppression adds at least, at this node and at every node below it.
    least_suppressed : int
        Rows that are suppressed at least, at this node and at every node below it.
    possible : bool
        Whether suppression helps at all: a bound on people who are *not* in the table may fail.
    """

    extra: float
    suppressed: int
    least_extra: float
    least_suppressed: int
    possible: bool = True


class Present:
    """Groups that occur in a table, per column and level, numbered without gaps.

    Parameters
    ----------
    lattice : Lattice
        Of the columns.
    codes : ndarray of int32, shape (m, q)
        Rows of the table.
    """

    def __init__(self, lattice: Lattice, codes: Codes) -> None:
        self.lattice = lattice
        #: Per column and level the group (of the lattice) behind each number.
        self.names: list[list[Codes]] = []
        #: Per column and level the loss of each group's cells.
        self.losses: list[list[Floats]] = []
        self._of: list[list[Codes]] = []
        self._maps: dict[tuple[int, int, int], Codes] = {}
        for j, size in enumerate(lattice.shape):
            found = np.bincount(codes[:, j], minlength=lattice.columns[j].size) > 0
            names, losses, of = [], [], []
            for i in range(size):
                groups = lattice.groups(j, i)
                kept, first = np.unique(groups[found], return_index=True)
                number = np.zeros(int(groups.max()) + 1, np.int32)
                number[kept] = np.arange(len(kept))
                names.append(kept)
                losses.append(lattice.loss(j, i)[found][first])
                of.append(number[groups])
            self.names.append(names)
            self.losses.append(losses)
            self._of.append(of)

    def size(self, column: int, index: int) -> int:
        """Number of groups of a column at a level."""
        return len(self.names[column][index])

    def number(self, column: int, index: int) -> Codes:
        """Number of the group of every code of the domain; shape (domain + 1,)."""
        return self._of[column][index]

    def up(self, column: int, lower: int, upper: int) -> Codes:
        """Number at a higher level of every group of a lower one."""
        key = (column, lower, upper)
        if key not in self._maps:
            out = np.zeros(self.size(column, lower), np.int32)
            finer, coarser = self._of[column][lower], self._of[column][upper]
            present = np.isin(self.lattice.groups(column, lower), self.names[column][lower])
            out[finer[present]] = coarser[present]
            self._maps[key] = out
        return self._maps[key]


@dataclass(frozen=True)
class Table:
    """Classes of a node.

    Parameters
    ----------
    present : Present
        Groups of the columns.
    node : tuple of int
        Whose classes these are.
    groups : tuple of ndarray of int32, each of shape (classes,)
        Group of every class per column, by its number in ``present``.
    counts : ndarray of int64, shape (classes,)
        Rows of the table.
    values : ndarray of int64, shape (classes, sensitive values), or None
        The same by sensitive value.
    alone : ndarray of int64, shape (classes,), or None
        People of the population table who are not in the table.
    rows : int
        Rows of the whole table.
    """

    present: Present
    node: Node
    groups: tuple[Codes, ...]
    counts: Counts
    values: Counts | None
    alone: Counts | None
    rows: int
    _cache: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def of(
        lattice: Lattice, coded: Coded, models: Sequence[Model], population: Coded | None = None
    ) -> Table:
        """Classes of the lowest node; O(rows · columns + rows · log rows).

        Parameters
        ----------
        lattice : Lattice
            Of ``coded.columns``.
        coded : Coded
            The table; with a sensitive column where a model reads it.
        models : sequence of Model
            Tell what has to be counted.
        population : Coded, optional
            Everybody who could be in the table, those who are included.
        """
        sensitive = any(model.reads == "sensitive" for model in models)
        if sensitive and coded.sensitive is None:
            raise ValueError("a model reads sensitive values, and the table has none coded")
        table = coded
        if population is not None:
            codes = np.asfortranarray(np.concatenate([coded.codes, population.codes]))
            table = Coded(coded.columns, codes)
        found = table.distinct()
        m = len(found.counts)
        of = found.inverse[: coded.rows]
        counts, alone, values = found.counts, None, None
        if population is not None:
            counts = np.bincount(of, minlength=m)
            alone = np.bincount(found.inverse[coded.rows :], minlength=m) - counts
            if (alone < 0).any():
                raise ValueError("the population table must hold everybody who is in the table")
        if sensitive and coded.sensitive is not None:
            kinds = len(coded.sensitive_domain) + 1
            pairs = of.astype(np.int64) * kinds + coded.sensitive
            values = np.bincount(pairs, minlength=m * kinds).reshape(m, kinds)
        present = Present(lattice, found.codes)
        node = (0,) * len(lattice.columns)
        groups = tuple(present.number(j, 0)[found.codes[:, j]] for j in range(len(node)))
        made = Table(present, node, groups, counts, values, alone, coded.rows)
        return made.at(node) if any(lattice.lowest) else made

    @property
    def lattice(self) -> Lattice:
        """The lattice of nodes."""
        return self.present.lattice

    def histograms(self) -> list[Counts]:
        """Rows per group of each column, at this table's node."""
        return [
            np.bincount(g, self.counts, minlength=self.present.size(j, i)).astype(np.int64)
            for j, (g, i) in enumerate(zip(self.groups, self.node, strict=True))
        ]

    def at(self, node: Node) -> Table:
        """Classes of a node above; O(classes · columns)."""
        inverse, classes = self._merged(node)
        one = np.empty(classes, np.int64)  # any of the finer classes tells the groups
        one[inverse] = np.arange(len(inverse))
        return Table(
            self.present,
            node,
            tuple(
                self.present.up(j, self.node[j], node[j])[group[one]]
                for j, group in enumerate(self.groups)
            ),
            _added(inverse, self.counts, classes),
            None if self.values is None else _added_rows(inverse, self.values, classes),
            None if self.alone is None else _added(inverse, self.alone, classes),
            self.rows,
        )

    def towards(self, node: Node) -> Table:
        """A table between this one and ``node`` that serves many nodes above: it is kept.

        The columns with most values go to their level first, one after another; each such table is
        made from the one before.
        """
        found = self
        for column in self._order:
            if found.node[column] == node[column] or len(found.counts) < _SMALL:
                continue
            step = (*found.node[:column], node[column], *found.node[column + 1 :])
            if step not in self._cache:
                self._cache[step] = found.at(step)
            found = self._cache[step]
        return found

    @cached_property
    def _order(self) -> list[int]:
        sizes = [self.present.size(j, i) for j, i in enumerate(self.node)]
        return sorted(range(len(sizes)), key=lambda j: -sizes[j])[:_KEPT]

    def outcome(self, models: Sequence[Model]) -> Outcome:
        """What becomes of the table at its own node; O(classes · (columns + values))."""
        growing = np.ones(len(self.counts), np.bool_)
        kept = growing.copy()
        possible = True
        for model in models:
            if model.reads == "size":
                holds = model.holds(self.counts[:, None], self.counts.sum(keepdims=True))
            elif model.reads == "presence":
                holds, able = self._presence(model)
                possible &= able
            else:
                continue
            kept &= holds
            if model.growing:
                growing &= holds
        readers = [model for model in models if model.reads == "sensitive"]
        if readers and self.values is not None:
            total = self.values.sum(axis=0)
            for model in readers:
                if model.growing:
                    growing &= model.holds(self.values, total)
            kept[kept] = settled(readers, self.values[kept])
        extra, suppressed = self._extra(~kept)
        same = np.array_equal(growing, kept)
        least, fewest = (extra, suppressed) if same else self._extra(~growing)
        return Outcome(extra, suppressed, least, fewest, possible)

    def kept(self, models: Sequence[Model]) -> Flags:
        """Which classes are published; shape (classes,)."""
        kept = np.ones(len(self.counts), np.bool_)
        for model in models:
            if model.reads == "size":
                kept &= model.holds(self.counts[:, None], self.counts.sum(keepdims=True))
            elif model.reads == "presence":
                kept &= self._presence(model)[0]
        readers = [model for model in models if model.reads == "sensitive"]
        if readers and self.values is not None:
            kept[kept] = settled(readers, self.values[kept])
        return kept & (self.counts > 0)

    def _merged(self, node: Node) -> tuple[NDArray[Any], int]:
        """Class at ``node`` of each class here, and their number."""
        keys: Counts = np.zeros(len(self.counts), np.int64)
        room = 1
        for j, group in enumerate(self.groups):
            size = self.present.size(j, node[j])
            if size == 1:
                continue
            if room * size >= _LIMIT:  # numbered anew: then it fits
                names, keys = np.unique(keys, return_inverse=True)
                room = len(names)
            # The last column counts ones: the columns' places grow from the first on.
            place = self.present.up(j, self.node[j], node[j]).astype(np.int64) * room
            keys = keys + place[group]
            room *= size
        if room > min(_SPARSE * len(keys) + 4096, _ROOM):
            found, inverse = np.unique(keys, return_inverse=True)
            return inverse, len(found)
        used = np.zeros(room, np.bool_)
        used[keys] = True
        found = np.flatnonzero(used)
        number = np.empty(room, np.int32)
        number[found] = np.arange(len(found))
        return number[keys], len(found)

    def _extra(self, dropped: Flags) -> tuple[float, int]:
        """What suppressing classes adds to the loss, and how many rows it leaves out."""
        rows = self.counts[dropped]
        if not len(rows):
            return 0.0, 0
        loss = np.zeros(len(rows))
        for j, (index, group) in enumerate(zip(self.node, self.groups, strict=True)):
            loss += self.present.losses[j][index][group[dropped]]
        spared = float(rows @ (1.0 - loss / max(len(self.groups), 1)))
        return spared / max(self.rows, 1), int(rows.sum())

    def _presence(self, model: Model) -> tuple[Flags, bool]:
        if self.alone is None:
            raise ValueError("a model needs a population table, and there is none")
        counts = np.stack([self.alone, self.counts], axis=1)
        holds = model.holds(counts, counts.sum(axis=0))
        without = np.stack([self.alone + self.counts, np.zeros_like(self.counts)], axis=1)
        helped = model.holds(without, counts.sum(axis=0))
        return holds, bool((holds | helped).all())


#: Columns that :meth:`Table.towards` raises one by one, and classes below which it stops.
_KEPT = 3
_SMALL = 2_000


def _added(inverse: NDArray[Any], counts: Counts, classes: int) -> Counts:
    return np.bincount(inverse, weights=counts, minlength=classes).astype(np.int64)


def _added_rows(inverse: NDArray[Any], values: Counts, classes: int) -> Counts:
    columns = [_added(inverse, values[:, s], classes) for s in range(values.shape[1])]
    return np.stack(columns, axis=1)
