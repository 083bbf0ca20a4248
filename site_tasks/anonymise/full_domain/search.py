"""Complete search of the lattice by branch and bound: the optimum, proven.

A node's loss is its *base* (no row suppressed; adds up over columns) and what suppression *adds*.
For models that are ``growing`` (k-anonymity, distinct l-diversity) a row that is suppressed at a node
is suppressed at every node below it, where its cells were worth more: so what suppression adds at a
node bounds what it adds at all nodes below, and a node with too many rows suppressed rules them all
out.  Of other models only the loss at the node itself is believed; the bounds come from those that
are growing, and stay valid since further models only suppress more.

The next node is the one with the most open nodes below it: its bound settles most of them.  About
300 of 6,480 nodes are counted on Adult, none twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import DataError
from site_tasks.anonymise.coded import Coded
from site_tasks.anonymise.full_domain.lattice import Lattice, Node
from site_tasks.anonymise.full_domain.tables import Outcome, Table
from site_tasks.anonymise.models import Model

__all__ = ["Bounds", "Found", "search"]

#: Losses closer than this are one: sums in another order differ by less.
_SAME = 1e-12
#: Lattices larger than this are climbed from their best open node instead of counted below.
_COUNTED = 60_000


@dataclass(frozen=True)
class Found:
    """What the search found.

    Parameters
    ----------
    levels : dict of str to int
        Level per column.
    loss : float
        Global certainty penalty there, between 0 and 1.
    suppressed : int
        Rows suppressed there.
    bound : float
        No node within the limit loses less; equals ``loss`` where ``proven``.
    proven : bool
        Whether the search ended by itself.
    nodes, counted : int
        Nodes of the lattice, and those whose classes were counted.
    """

    levels: dict[str, int]
    loss: float
    suppressed: int
    bound: float
    proven: bool
    nodes: int
    counted: int


class Bounds:
    """What is known about every node without counting its classes.

    Parameters
    ----------
    table : Table
        Classes of the lowest node.
    models : sequence of Model
        What every class has to satisfy.
    most : int
        Rows that may be suppressed.
    """

    def __init__(self, table: Table, models: Sequence[Model], most: int) -> None:
        self.models, self.most = models, most
        self.lattice = table.lattice
        self.base = _base(table)
        self.extra = np.zeros(self.lattice.shape)
        #: Nodes that may still be within the limit and were not counted.
        self.open = np.ones(self.lattice.shape, np.bool_)
        self.counted = 0
        self._floor = table
        self._whole = most == 0 and all(model.merging for model in models)

    def lower(self) -> NDArray[np.float64]:
        """A loss that each node has at least; an array over the lattice."""
        return self.base + self.extra

    def count(self, node: Node) -> tuple[Outcome, float, bool]:
        """Count a node's classes; returns outcome, loss, and whether it is within the limit."""
        found = self._floor.towards(node).at(node).outcome(self.models)
        self.counted += 1
        below = tuple(slice(0, i + 1) for i in node)
        np.maximum(self.extra[below], found.least_extra, out=self.extra[below])
        within = found.possible and found.suppressed <= self.most
        if found.least_suppressed > self.most or (self._whole and not within):
            self.open[below] = False
        self.open[node] = False
        return found, float(self.base[node]) + found.extra, within

    def next(self, live: NDArray[np.bool_]) -> Node:
        """The live node to count next: the one with most live nodes at or below it.

        Classes are counted from the highest node below all live ones from now on.
        """
        places = np.unravel_index(np.flatnonzero(live), live.shape)
        low = tuple(int(place.min()) for place in places)
        if low != self._floor.node:
            self._floor = self._floor.towards(low).at(low)
        if live.size > _COUNTED:
            return self._climb(live)
        box = tuple(
            slice(start, int(place.max()) + 1) for start, place in zip(low, places, strict=True)
        )
        part = live[box]
        below = part.astype(np.int32)
        for axis, size in enumerate(part.shape):
            along = below.reshape(math.prod(part.shape[:axis]), size, -1)
            for i in range(1, size):  # ten times as fast as cumsum over so few levels
                along[:, i] += along[:, i - 1]
        found = _index(np.where(part, below, 0).argmax(), part.shape)
        return tuple(start + i for start, i in zip(low, found, strict=True))

    def _climb(self, live: NDArray[np.bool_]) -> Node:
        """From the most promising node upwards as long as nodes are live."""
        node = list(_index(np.where(live, self.lower(), np.inf).argmin(), live.shape))
        while True:
            above = []
            for axis, size in enumerate(live.shape):
                if node[axis] + 1 < size:
                    step = (*node[:axis], node[axis] + 1, *node[axis + 1 :])
                    if live[step]:
                        above.append((float(self.base[step]), step))
            if not above:
                return tuple(node)
            node = list(min(above)[1])


def search(
    coded: Coded,
    models: Sequence[Model],
    *,
    limit: float = 1.0,
    lowest: Mapping[str, int] | None = None,
    population: Coded | None = None,
    time_limit: float | None = None,
    progress: Callable[[int, int], None] = lambda settled, nodes: None,
) -> Found:
    """Find the levels of least loss at which every class satisfies all models.

    Parameters
    ----------
    coded : Coded
        The table, n rows; with its sensitive column where a model reads it.
    models : sequence of Model
        What every published class has to satisfy.
    limit : float
        Largest share of rows that may be suppressed; 1 leaves it free.
    lowest : mapping of str to int, optional
        Lowest level per column.
    population : Coded, optional
        For k-map and delta-presence: everybody who could be in the table.
    time_limit : float, optional
        Seconds after which the best found so far is returned, with its bound.
    progress : callable
        Told of nodes that are settled and of all nodes.

    Returns
    -------
    Found

    Raises
    ------
    DataError
        ``data.too-few-rows`` for an empty table; ``data.suppression`` where no node is within the
        limit (or none was found in time).
    ConfigError
        As :meth:`Lattice.of`.

    Notes
    -----
    O(n log n) once, then O(classes · columns) per counted node.  Privacy: the levels depend on the
    rows; no budget is charged here, so they must not leave a site under a claim of differential
    privacy.
    """
    began = time.monotonic()
    lattice = Lattice.of(coded.columns, lowest)
    if not coded.rows:
        raise DataError(
            "data.too-few-rows", "The table has no rows.", "Add rows before anonymising."
        )
    most = int(np.floor(limit * coded.rows + 1e-9))
    bounds = Bounds(Table.of(lattice, coded, models, population), models, most)
    best, at, suppressed = np.inf, None, 0
    proven = False
    while True:
        live = bounds.open & (bounds.lower() < best - _SAME)
        left = int(np.count_nonzero(live))
        progress(lattice.nodes - left, lattice.nodes)
        if not left:
            proven = True
            break
        if time_limit is not None and time.monotonic() - began > time_limit and bounds.counted:
            break
        node = bounds.next(live)
        found, loss, within = bounds.count(node)
        if within and loss < best - _SAME:
            best, at, suppressed = loss, node, found.suppressed
    if at is None:
        raise _nothing(models, limit, proven=proven)
    bound = best if proven else min(best, float(bounds.lower()[live].min()))
    return Found(lattice.levels(at), best, suppressed, bound, proven, lattice.nodes, bounds.counted)


def _base(table: Table) -> NDArray[np.float64]:
    """Loss of every node without suppression, from the histograms of the lowest node."""
    lattice, present = table.lattice, table.present
    out = np.zeros(lattice.shape)
    for j, (histogram, size) in enumerate(zip(table.histograms(), lattice.shape, strict=True)):
        means = [histogram @ present.losses[j][i][present.up(j, 0, i)] for i in range(size)]
        axes = [-1 if axis == j else 1 for axis in range(len(lattice.shape))]
        out += np.array(means).reshape(axes)
    return out / (max(table.rows, 1) * len(lattice.shape))


def _index(flat: np.intp, shape: Node) -> Node:
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def _nothing(models: Sequence[Model], limit: float, *, proven: bool) -> DataError:
    asked = ", ".join(map(str, models))
    if not proven:
        return DataError(
            "data.suppression",
            f"No levels that give {asked} were found within the time limit.",
            "Raise anonymisation.time_limit_seconds, or give lowest levels.",
        )
    return DataError(
        "data.suppression",
        f"No levels give {asked} with at most {limit:.0%} of the rows suppressed.",
        "Raise anonymisation.suppression_limit, ask for less, or give hierarchies a level that "
        "hides the value.",
    )
