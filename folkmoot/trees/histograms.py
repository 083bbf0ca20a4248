"""Histograms of whole numbers: rows in bins, rows in nodes, gradients and Hessians summed by bin.

All sums are over multiples of one public step (:class:`Grid`), so that they are the same in any
order, from any number of sites, and under masks as without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError, SecureError
from folkmoot.trees.compiled import add_pair, compiled, still
from folkmoot.trees.cuts import Cuts
from folkmoot.trees.route import BY_SET, Route

__all__ = ["Grid", "add", "bin_rows", "build", "count", "leaves", "missing_code"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """Public steps of gradients and Hessians, for which no federation's sum overflows.

    Parameters
    ----------
    gradient, hessian : int
        Exponents: the step is ``2**-exponent``.
    most : int
        Largest absolute value that a site's sum may have, in steps.
    """

    gradient: int
    hessian: int
    most: int

    @staticmethod
    def fit(sites: int, rows: int, gradient: float, hessian: float) -> Grid:
        """The finest grid for at most ``rows`` rows a site, ``|g| <= gradient``, ``h <= hessian``.

        A site's sum is then at most ``2**(62 - bits of sites)`` steps, and the sum of all of them
        below ``2**62``.

        Raises
        ------
        ConfigError
            ``config.invalid`` where steps would be coarser than float32's own of the bounds.
        """
        room = 62 - sites.bit_length()
        found = []
        for bound in (gradient, hessian):
            # A row is rounded up by half a step at most: one bit less.
            exponent = room - 1 - math.ceil(math.log2(rows)) - math.ceil(math.log2(bound))
            if math.ldexp(bound, exponent) < 2**24:
                raise ConfigError(
                    "config.invalid",
                    f"Sums over {sites} sites of {rows} rows each leave no room for exact gradients.",
                    "Lower aggregation.rows_limit to the most rows that a site has.",
                )
            found.append(exponent)
        return Grid(found[0], found[1], 2**room)

    @property
    def units(self) -> tuple[float, float]:
        """Value of one step."""
        return 2.0**-self.gradient, 2.0**-self.hessian

    def check(self, sums: NDArray[np.int64]) -> None:
        """Refuse sums beyond what the grid is proven for; raises SecureError ``secure.range``."""
        if sums.size and max(int(sums.max()), -int(sums.min())) > self.most:
            raise SecureError(
                "secure.range",
                "A sum of gradients is larger than the federation's grid has room for.",
                "Raise aggregation.rows_limit to the rows of the largest site; nothing was sent.",
            )


def missing_code(cuts: Cuts) -> int:
    """Bin code of a missing value: one above all bins of any feature."""
    return cuts.widest


def bin_rows(rows: Array, cuts: Cuts) -> Array:
    """Bin of every value within its feature; O(n · d · log bins).

    Parameters
    ----------
    rows : ndarray, shape (n, d)
        Features, NaN where missing; compared in float32, as XGBoost does.
    cuts : Cuts

    Returns
    -------
    ndarray of uint8 or uint16, shape (n, d)
        :func:`missing_code` where missing; of 256 bins and no missing value half the memory.
    """
    missing = missing_code(cuts)
    narrow = missing < 256 or (missing == 256 and not np.isnan(rows).any())
    out = np.empty(rows.shape, np.uint8 if narrow else np.uint16)
    edges = (still(cuts.values), still(cuts.first), still(cuts.categorical))
    _bin(still(rows), *edges, missing, out)
    return out


def leaves(
    bins: Array, missing: int, route: Route, known: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """Node that every row has come to; O(n · depth), or O(n) per level from ``known`` on.

    Parameters
    ----------
    bins : ndarray, shape (n, d)
        From :func:`bin_rows`.
    missing : int
        Their code of missing values.
    route : Route
    known : ndarray of int32, shape (n,), optional
        What this function gave for a tree that ``route`` goes on from (:meth:`Route.extends`).

    Returns
    -------
    ndarray of int32, shape (n,)
    """
    out = np.zeros(len(bins), np.int32) if known is None else known.copy()
    left, right, feature = still(route.left), still(route.right), still(route.feature)
    ways = (still(route.place), still(route.default_left), still(route.codes))
    _walk(still(bins), missing, left, right, feature, *ways, out)
    return out


def build(
    bins: Array,
    first: NDArray[np.int64],
    missing: int,
    nodes: NDArray[np.int32],
    wanted: Sequence[int],
    gradient: NDArray[np.int64],
    hessian: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:
    """Add up gradients and Hessians by bin for some nodes; O(rows in them · d).

    Parameters
    ----------
    bins : ndarray, shape (n, d)
        From :func:`bin_rows`.
    first, missing
        Of the cuts.
    nodes : ndarray of int32, shape (n,)
        From :func:`leaves`.
    wanted : sequence of int
        The nodes that are asked for.
    gradient, hessian : ndarray of int64, shape (n,)
        On the grid.
    out : ndarray of int64, shape (len(wanted), bins, 2)
        Zeros; filled in.
    """
    slot = np.full(max(int(nodes.max(initial=0)), *wanted) + 2, len(wanted), np.int64)
    slot[list(wanted)] = np.arange(len(wanted))
    rows, starts = _sorted(still(nodes), still(slot), len(wanted))
    own = (still(gradient), still(hessian))
    _sum(still(bins), still(first), missing, rows, starts, *own, out)


def add(total: NDArray[np.int64], part: NDArray[np.int64]) -> int:
    """Add whole numbers to a sum, in one pass.

    Parameters
    ----------
    total : ndarray of int64
        C-contiguous; changed in place.
    part : ndarray of int64, of the same shape

    Returns
    -------
    int
        Largest absolute value in ``part``; what is beyond the grid is the caller's to refuse.
    """
    low, high = _add(total.reshape(-1), still(part).reshape(-1))
    return max(int(high), -int(low))  # the least of int64 has no opposite in it


def count(bins: Array, cuts: Cuts, weights: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Rows (or their weights in whole steps) per bin, shape (bins,); O(n · d)."""
    out = np.zeros(cuts.bins, np.int64)
    own = np.ones(0, np.int64) if weights is None else weights
    _count(still(bins), still(cuts.first), missing_code(cuts), still(own), out)
    return out


#: Places in arrays are told as unsigned: a sign would be looked at each time, at half the speed.
_U = np.uint64


@compiled
def _bin(
    rows: Array, values: Array, first: Array, categorical: Array, missing: int, out: Array
) -> None:
    block = 256  # rows of one column, all one step of the search farther at a time
    v, low = np.empty(block, np.float32), np.empty(block, np.uint32)
    for begin in range(0, rows.shape[0], block):
        some = _U(min(block, rows.shape[0] - begin))
        for j in range(_U(rows.shape[1])):
            for i in range(some):
                v[i], low[i] = rows[_U(begin) + i, j], 0
            size = first[j + _U(1)] - first[j]
            if categorical[j]:
                for i in range(some):
                    low[i] = 0 if np.isnan(v[i]) else min(max(np.int64(v[i]), 0), size - 1)
                size = 1
            edges = values[first[j] : first[j + _U(1)]]
            while size > 1:  # the first edge above the value, or the last; no branch to guess
                half = np.uint32(size >> 1)
                for i in range(some):
                    above = edges[_U(low[i] + half - np.uint32(1))] <= v[i]
                    low[i] += half if above else np.uint32(0)
                size -= size >> 1
            for i in range(some):
                out[_U(begin) + i, j] = missing if np.isnan(v[i]) else low[i]


@compiled
def _walk(
    bins: Array, missing: int, left: Array, right: Array, feature: Array, place: Array,
    default_left: Array, codes: Array, out: Array,
) -> None:  # fmt: skip
    sets = codes.shape[0] > 1
    ways = np.empty(2 * len(left), np.int64)  # looked up: half of all guesses at a split are wrong
    for node in range(len(left)):
        ways[2 * node], ways[2 * node + 1] = left[node], right[node]
    for i in range(_U(bins.shape[0])):
        at = _U(out[i])
        while left[at] != -1:
            b = np.int64(bins[i, _U(feature[at])])
            if b == missing:
                goes_right = _U(not default_left[at])
            elif sets and place[at] == BY_SET:
                goes_right = _U(codes[at, b])
            else:
                goes_right = _U(b > place[at])
            at = _U(ways[_U(2) * at + goes_right])
        out[i] = at


@compiled
def _sorted(nodes: Array, slot: Array, wanted: int) -> Any:
    """Rows of the wanted nodes, node by node, and where each begins."""
    starts = np.zeros(wanted + 2, np.int64)
    for i in range(_U(len(nodes))):
        starts[_U(slot[_U(nodes[i])] + 1)] += 1
    for s in range(wanted + 1):
        starts[s + 1] += starts[s]
    at = starts.copy()
    rows = np.empty(len(nodes), np.int32)
    for i in range(_U(len(nodes))):  # all of them, those of no use last: nothing to guess
        of = _U(slot[_U(nodes[i])])
        rows[_U(at[of])] = i
        at[of] += 1
    return rows, starts


@compiled
def _sum(
    bins: Array, first: Array, missing: int, rows: Array, starts: Array, gradient: Array,
    hessian: Array, out: Array,
) -> None:  # fmt: skip
    d, none = _U(bins.shape[1]), _U(missing)
    some = missing >> (8 * bins.itemsize) == 0  # else nothing is missing: no room for its code
    for s in range(out.shape[0]):
        own = out[s].reshape(-1)
        for r in range(starts[s], starts[s + 1]):
            i = _U(rows[r])
            g, h = gradient[i], hessian[i]
            if h == 0 and g == 0:
                continue  # not sampled
            if some:
                for j in range(d):
                    b = _U(bins[i, j])
                    if b != none:
                        add_pair(own, (_U(first[j]) + b) << _U(1), g, h)
            else:
                for j in range(d):
                    add_pair(own, (_U(first[j]) + _U(bins[i, j])) << _U(1), g, h)


@compiled
def _add(total: Array, part: Array) -> Any:
    low, high = 0, 0
    for i in range(_U(len(total))):
        value = part[i]
        total[i] += value
        low, high = min(low, value), max(high, value)
    return low, high


@compiled
def _count(bins: Array, first: Array, missing: int, weights: Array, out: Array) -> None:
    none, weighted = _U(missing), len(weights) > 0
    for i in range(_U(bins.shape[0])):
        w = weights[i] if weighted else 1
        for j in range(_U(bins.shape[1])):
            b = _U(bins[i, j])
            if b != none:
                out[_U(first[j]) + b] += w
