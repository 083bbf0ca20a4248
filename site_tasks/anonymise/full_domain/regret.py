"""What every node of the lattice would cost a table beyond its own optimum, in public steps.

Most nodes need not be counted: bounds from counted nodes above and below often leave one step only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from folkmoot.agreement import BEYOND, OVER, codes_of
from site_tasks.anonymise.coded import Coded
from site_tasks.anonymise.full_domain.lattice import Lattice, Node
from site_tasks.anonymise.full_domain.search import Bounds, Found, search
from site_tasks.anonymise.full_domain.tables import Table
from site_tasks.anonymise.models import Model

__all__ = ["Regrets", "regrets"]


@dataclass(frozen=True)
class Regrets:
    """Codes of all nodes, and the optimum they are measured from.

    Parameters
    ----------
    codes : ndarray of uint8, shape (nodes,)
        Step of the loss beyond the optimum, with ``OVER`` where the limit is passed, or ``BEYOND``.
    optimum : Found
        The table's own optimum with free suppression.
    allowed : int
        Rows that may be suppressed.
    """

    codes: NDArray[np.uint8]
    optimum: Found
    allowed: int


def regrets(
    coded: Coded,
    models: Sequence[Model],
    *,
    limit: float,
    lowest: Mapping[str, int] | None = None,
    population: Coded | None = None,
    time_limit: float | None = None,
) -> Regrets:
    """Code every node of the lattice.

    Parameters
    ----------
    coded, models, lowest, population
        As :func:`site_tasks.anonymise.full_domain.search`.
    limit : float
        Share of the rows that may be suppressed beyond what the optimum suppresses: a small table
        has to suppress more wherever it is, and would otherwise satisfy almost nothing.
    time_limit : float, optional
        Seconds; nodes that are not settled by then count as the worst that they may be.

    Returns
    -------
    Regrets

    Raises
    ------
    DataError
        As ``search``.
    """
    began = time.monotonic()
    optimum = search(coded, models, lowest=lowest, population=population, time_limit=time_limit)
    lattice = Lattice.of(coded.columns, lowest)
    allowed = min(optimum.suppressed + int(limit * coded.rows + 1e-9), coded.rows)
    bounds = Bounds(Table.of(lattice, coded, models, population), models, coded.rows)
    span = _Span(bounds, growing=all(model.growing for model in models), rows=coded.rows)
    while True:
        low = _codes(bounds.base + bounds.extra, span.fewest, optimum.loss, allowed)
        high = _codes(bounds.base + span.extra, span.most, optimum.loss, allowed)
        live = (low != high) & bounds.open
        late = time_limit is not None and time.monotonic() - began > time_limit
        if late or not live.any():
            break
        span.count(bounds.next(live))
    codes = np.where(span.impossible, BEYOND, high).astype(np.uint8)
    codes[lattice.node(optimum.levels)] = 0
    return Regrets(codes.ravel(), optimum, allowed)


class _Span:
    """Bounds from both sides: what suppression adds at most, and how many rows it takes."""

    def __init__(self, bounds: Bounds, *, growing: bool, rows: int) -> None:
        shape = bounds.lattice.shape
        self.bounds, self.growing = bounds, growing
        self.extra = 1.0 - bounds.base
        self.most = np.full(shape, rows)
        self.fewest = np.zeros(shape, np.int64)
        self.impossible = np.zeros(shape, np.bool_)

    def count(self, node: Node) -> None:
        """Count a node's classes, and learn about its neighbours above and below."""
        found, _, _ = self.bounds.count(node)
        below = tuple(slice(0, i + 1) for i in node)
        np.maximum(self.fewest[below], found.least_suppressed, out=self.fewest[below])
        here = tuple(slice(i, i + 1) for i in node)
        above = tuple(slice(i, None) for i in node) if self.growing else here
        np.minimum(self.extra[above], found.extra, out=self.extra[above])
        np.minimum(self.most[above], found.suppressed, out=self.most[above])
        # A counted node is known, whatever its bounds say.
        self.bounds.extra[node], self.fewest[node] = found.extra, found.suppressed
        self.impossible[node] = not found.possible


def _codes(
    losses: NDArray[np.float64], suppressed: NDArray[np.int64], best: float, allowed: int
) -> NDArray[np.uint8]:
    codes = codes_of(np.maximum(losses - best, 0.0))
    return np.where((suppressed > allowed) & (codes != BEYOND), codes | OVER, codes)
