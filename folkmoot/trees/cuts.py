"""Bin edges of a federation: public ones, or quantiles of summed counts over public cells.

A feature's range, which the contract makes public, is divided into cells; every site counts its
rows (or adds their weights) by cell, and only the federation's sum is needed.  Where a cell holds
more than its share, it is divided again and counted once more (:func:`refine`); then every
``1 / max_bin`` of the rows becomes a bin (:func:`choose`).  No value of a row leaves a site: an edge
is a cell's, and a count is a sum over all sites.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError

__all__ = ["Cuts", "choose", "refine", "start"]

Array = NDArray[Any]
#: Cells per bin that are counted at a time.
CELLS = 8


@dataclass(frozen=True)
class Cuts:
    """Edges of all features' bins.

    Parameters
    ----------
    values : ndarray of float32, shape (bins,)
        Upper edge of every bin, which does not belong to it, feature by feature; of a categorical
        feature its codes.
    first : ndarray of int64, shape (d + 1,)
        First bin of every feature.
    lowest : ndarray of float32, shape (d,)
        A number below all values of the feature.
    categorical : ndarray of bool, shape (d,)
    """

    values: NDArray[np.float32]
    first: NDArray[np.int64]
    lowest: NDArray[np.float32]
    categorical: NDArray[np.bool_]

    @property
    def bins(self) -> int:
        """Bins of all features together."""
        return int(self.first[-1])

    @cached_property
    def widest(self) -> int:
        """Most bins of a feature."""
        return int(np.diff(self.first).max())

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the edges."""
        return hashlib.sha256(self.values.tobytes() + self.first.tobytes()).hexdigest()

    def same(self, arrays: Any) -> bool:
        """Whether these are the edges of an artefact's arrays; O(bins)."""
        return all(
            name in arrays and arrays[name].dtype == own.dtype and np.array_equal(arrays[name], own)
            for name, own in self.to_arrays().items()
        )

    def threshold(self, feature: int, place: int) -> np.float32:
        """Rows with less than this are in the feature's bins up to and including ``place``."""
        if place < 0:
            return np.float32(self.lowest[feature])
        return np.float32(self.values[self.first[feature] + place])

    def to_arrays(self) -> dict[str, Array]:
        """As arrays of an artefact."""
        return {
            "cuts.values": self.values,
            "cuts.first": self.first,
            "cuts.lowest": self.lowest,
            "cuts.categorical": self.categorical.astype(np.uint8),
        }

    @staticmethod
    def from_arrays(arrays: Any, features: int) -> Cuts:
        """Inverse of :meth:`to_arrays`, checked.

        Raises
        ------
        ProtocolError
            ``protocol.format`` for edges that are not in order, not finite or of other features.
        """
        try:
            found = Cuts(
                np.asarray(arrays["cuts.values"]),
                np.asarray(arrays["cuts.first"]),
                np.asarray(arrays["cuts.lowest"]),
                np.asarray(arrays["cuts.categorical"]).astype(bool),
            )
            steps = np.diff(found.first)
            falls = np.diff(found.values) <= 0
            falls[found.first[1:-1] - 1] = False
            fit = (
                found.values.dtype == found.lowest.dtype == np.float32
                and found.first.dtype == np.int64
                and found.first.shape == (features + 1,)
                and found.lowest.shape == found.categorical.shape == (features,)
                and found.first[0] == 0
                and bool((steps >= 1).all())
                and found.values.shape == (found.bins,)
                and bool(np.isfinite(found.values).all() and np.isfinite(found.lowest).all())
                and not falls.any()
            )
        except (KeyError, IndexError, ValueError):
            fit = False
        if not fit:
            raise ProtocolError(
                "protocol.format",
                "The global model's bin edges are missing, out of order or of other features.",
                "Check that coordinator and site run the same version of folkmoot and one contract.",
            )
        return found


def start(lower: Array, upper: Array, levels: Sequence[int], cells: int) -> Cuts:
    """Cells of equal width between public bounds; categorical features as they are.

    Parameters
    ----------
    lower, upper : ndarray of float64, shape (d,)
        Public bounds.
    levels : sequence of int
        Number of public categories per feature; 0 for a number.
    cells : int
        Cells per number.
    """
    edges = []
    for low, high, size in zip(lower, upper, levels, strict=True):
        if size:
            edges.append(np.arange(size, dtype=np.float32))
            continue
        inner = np.unique(np.linspace(low, high, cells + 1)[1:-1].astype(np.float32))
        edges.append(np.append(inner[inner < _above(high)], _above(high)))
    return _joined(edges, lower, levels)


def refine(cuts: Cuts, counts: NDArray[np.int64], cells: int) -> Cuts:
    """Divide cells so that rows are spread evenly: about ``cells`` per number; O(cells).

    A cell with a share of ``s`` of the feature's rows becomes ``1 + floor(s · cells)`` of equal width.
    """
    edges = []
    for f in range(len(cuts.lowest)):
        own, found = _of(cuts, counts, f)
        total = int(found.sum())
        if cuts.categorical[f] or total <= 0:
            edges.append(own)
            continue
        pieces = 1 + np.maximum(found, 0) * cells // total
        low, high, n = (
            np.repeat(values, pieces)
            for values in (
                np.append(cuts.lowest[f], own[:-1]).astype(np.float64),
                own.astype(np.float64),
                pieces,
            )
        )
        place = np.arange(1, len(n) + 1) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        parts = np.where(n > 1, low + (high - low) * place / n, high)
        edges.append(np.unique(parts.astype(np.float32)))
    return _like(cuts, edges)


def choose(cuts: Cuts, counts: NDArray[np.int64], max_bin: int) -> Cuts:
    """Of the cells' edges those that part the rows into at most ``max_bin`` even bins; O(cells).

    Where a feature has no more cells with rows than that, each is a bin of its own.
    """
    edges = []
    for f in range(len(cuts.lowest)):
        own, found = _of(cuts, counts, f)
        if cuts.categorical[f]:
            edges.append(own)
            continue
        full = np.flatnonzero(found > 0)
        if len(full) <= max_bin:
            kept = full
        else:
            run = np.cumsum(np.maximum(found, 0), dtype=np.float64)
            targets = run[-1] * np.arange(1, max_bin) / max_bin
            kept = np.unique(np.searchsorted(run, targets * (1 - 1e-12)))
        inner = own[kept]
        edges.append(np.append(inner[inner < own[-1]], own[-1]))
    return _like(cuts, edges)


def _above(bound: float) -> np.float32:
    """An edge above all values up to the bound, as XGBoost places its last."""
    return np.float32(bound + (abs(bound) + 1e-5))


def _of(cuts: Cuts, counts: Array, f: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    here = slice(int(cuts.first[f]), int(cuts.first[f + 1]))
    return cuts.values[here], counts[here]


def _joined(edges: Sequence[Array], lower: Array, levels: Sequence[int]) -> Cuts:
    first = np.concatenate([[0], np.cumsum([len(e) for e in edges])]).astype(np.int64)
    lower = np.asarray(lower, np.float64)
    lowest = (lower - (np.abs(lower) + 1e-5)).astype(np.float32)
    values = np.concatenate(edges).astype(np.float32)
    return Cuts(values, first, lowest, np.asarray(levels) > 0)


def _like(cuts: Cuts, edges: Sequence[Array]) -> Cuts:
    first = np.concatenate([[0], np.cumsum([len(e) for e in edges])]).astype(np.int64)
    values = np.concatenate(edges).astype(np.float32)
    return Cuts(values, first, cuts.lowest, cuts.categorical)
