"""Public bins for noised histograms, and what a noised histogram tells: post-processing, free.

Bins follow from the contract's bounds alone.  A number has 64 bins of equal width; where its range
is wide (above 1000 units), 48 more edges grow geometrically from the lower bound, so that amounts
that are mostly zero are not squeezed into one bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.errors import PrivacyError
from folkmoot.features import feature_space
from folkmoot.generalisation import categories_at, is_categorical, level_of
from folkmoot.params import Anonymisation

__all__ = ["Layout", "edges_of", "moments_of", "public_edges", "public_scaling"]

Floats = NDArray[np.float64]
_EQUAL, _GROWING, _WIDE = 64, 48, 1000.0


@dataclass(frozen=True)
class Layout:
    """Where each feature's bins lie in the vector of counts.

    Parameters
    ----------
    edges : tuple of ndarray or None
        Per feature its inner edges (bins are ``[e_i, e_(i+1))``), or None for a 0/1 feature.
    lower, upper : ndarray of float64, shape (d,)
        Public bounds.
    columns : tuple of int
        Column of the contract of each feature.
    """

    edges: tuple[Floats | None, ...]
    lower: Floats
    upper: Floats
    columns: tuple[int, ...]

    @staticmethod
    def of(contract: Contract, anonymisation: Anonymisation) -> Layout:
        """Layout of a contract's linear features; O(features)."""
        space = feature_space(contract, anonymisation, "linear")
        edges: list[Floats | None] = []
        columns: list[int] = []
        for number, column in enumerate(contract.inputs):
            if is_categorical(column):
                flags = len(categories_at(column, level_of(column, anonymisation))) - 1
            else:
                at = len(edges)
                edges.append(public_edges(float(space.lower[at]), float(space.upper[at])))
                columns.append(number)
                flags = 0
            flags += bool(column.missing)
            edges += [None] * flags
            columns += [number] * flags
        if len(edges) != len(space):
            raise PrivacyError(
                "privacy.mechanism",
                "The features are not those of the contract's columns alone.",
                "Set model.linear.strategy to another than private for this anonymisation.",
            )
        return Layout(tuple(edges), space.lower, space.upper, tuple(columns))

    @cached_property
    def start(self) -> tuple[int, ...]:
        """First bin of each feature."""
        sizes = [1 if edges is None else len(edges) + 1 for edges in self.edges]
        return tuple(int(n) for n in np.cumsum([0, *sizes[:-1]]))

    @property
    def size(self) -> int:
        """Numbers in the vector: all bins, and the count of rows."""
        last = self.edges[-1]
        return self.start[-1] + (1 if last is None else len(last) + 1) + 1

    @cached_property
    def groups(self) -> tuple[NDArray[np.int64], ...]:
        """Bins of each column of the contract."""
        bounds = [*self.start, self.size - 1]
        found: dict[int, list[int]] = {}
        for j, column in enumerate(self.columns):
            found.setdefault(column, []).extend(range(bounds[j], bounds[j + 1]))
        return tuple(np.array(bins) for bins in found.values())

    def bins(self, feature: int, counts: NDArray[Any]) -> Floats:
        """Counts of one feature's bins."""
        edges = self.edges[feature]
        at = self.start[feature]
        return np.asarray(counts[at : at + (1 if edges is None else len(edges) + 1)], np.float64)


def moments_of(
    layout: Layout, counts: Floats, tail: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, standard deviation and winsorising bounds per feature from noised counts.

    Parameters
    ----------
    layout : Layout
    counts : ndarray of float64, shape (layout.size,)
        Noised.
    tail : float
        Share of rows beyond either winsorising bound.

    Returns
    -------
    mean, deviation, lower, upper : ndarray of float64, shape (d,)
        0/1 features keep their public bounds.  Noise cannot make a value leave its public bounds.
    """
    rows = max(float(counts[-1]), 1.0)
    lower, upper = layout.lower.copy(), layout.upper.copy()
    mean, deviation = np.empty(len(lower)), np.empty(len(lower))
    for j, edges in enumerate(layout.edges):
        bins = layout.bins(j, counts)
        if edges is None:
            mean[j] = min(max(float(bins[0]) / rows, 0.0), 1.0)
            deviation[j] = np.sqrt(mean[j] * (1 - mean[j]))
            continue
        inner = np.concatenate([[lower[j]], edges, [upper[j]]])
        cumulated = np.maximum.accumulate(np.cumsum(bins))
        total = float(cumulated[-1])
        if total <= 0:
            mean[j], deviation[j] = (lower[j] + upper[j]) / 2, (upper[j] - lower[j]) / 2
            continue
        share = np.diff(cumulated, prepend=0.0) / total
        low = int(np.searchsorted(cumulated, tail * total))
        high = int(np.searchsorted(cumulated, (1 - tail) * total))
        least, most = float(inner[low]), float(inner[min(high + 1, len(inner) - 1)])
        middle = np.clip((inner[1:] + inner[:-1]) / 2, least, most)
        mean[j] = float(share @ middle)
        deviation[j] = np.sqrt(max(float(share @ np.square(middle - mean[j])), 0.0))
        lower[j], upper[j] = least, most
    return mean, deviation, lower, upper


def edges_of(layout: Layout, feature: int, counts: Floats, bins: int, least: float) -> Floats:
    """Edges of at most ``bins`` bins of about equal noised counts; a heavy value gets its own.

    Parameters
    ----------
    layout : Layout
    feature : int
        A number.
    counts : ndarray of float64, shape (layout.size,)
        Noised.
    bins : int
        Most bins.
    least : float
        Fewest rows of a bin, several deviations of the noise.

    Returns
    -------
    ndarray of float64
        Inner edges, ascending; possibly none.
    """
    inner = layout.edges[feature]
    if inner is None:
        return np.zeros(0)
    left, held, open_, found = max(float(counts[-1]), 1.0), 0.0, bins, []
    for count, edge in zip(layout.bins(feature, counts)[:-1], inner, strict=True):
        held += float(count)
        if open_ > 1 and held >= max(left / open_, least) and left - held >= least:
            found.append(float(edge))
            left, held, open_ = left - held, 0.0, open_ - 1
    return np.array(found)


def public_scaling(layout: Layout) -> tuple[Floats, Floats]:
    """Mean and scale from public bounds: numbers to [-1, 1], 0/1 features to -1/2 and 1/2."""
    number = np.array([edges is not None for edges in layout.edges])
    half = np.where(number, (layout.upper - layout.lower) / 2, 1.0)
    return (layout.lower + layout.upper) / 2, np.where(half > 0, half, 1.0)


def public_edges(lower: float, upper: float) -> Floats:
    """Inner edges of a number's bins, ascending, from its public bounds."""
    width = upper - lower
    edges = lower + width * np.arange(1, _EQUAL) / _EQUAL
    if width > _WIDE:
        growing = lower + width * np.geomspace(2.0**-12, 1.0, _GROWING + 1)[:-1]
        edges = np.unique(np.concatenate([edges, growing]))
    return edges
