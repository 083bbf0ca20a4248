"""Design: how encoded features become the columns that a linear model's coefficients belong to.

Every linear model standardises, ``(x - mean) / scale``.  Privately trained ones may do two things
more, both decided from public bounds and noised histograms alone and kept in the model artefact:

``design.lower``, ``design.upper``  (d,): numbers are clipped to this interval first (winsorised);
``design.feature``, ``design.edge``  (m,): numbers that are replaced by indicators of bins.  Feature
    ``j`` with edges ``e1 < e2 < …`` has the bins ``(-inf, e1), [e1, e2), …``; an indicator is
    ``1 / scale[j]`` inside its bin and 0 elsewhere.

Columns: the features that have no bins, in order, then feature by feature the bins.  Missing values
count as the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Design"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """Columns of a linear model.

    Parameters
    ----------
    mean, scale : ndarray of float64, shape (d,)
        Per encoded feature.
    lower, upper : ndarray of float64, shape (d,), optional
        Where numbers are clipped.
    feature : ndarray of int64, shape (m,), optional
        Feature of each edge, ascending.
    edge : ndarray of float64, shape (m,), optional
        Edges, ascending within a feature.
    """

    mean: Floats
    scale: Floats
    lower: Floats | None = None
    upper: Floats | None = None
    feature: Integers | None = None
    edge: Floats | None = None

    @staticmethod
    def of(arrays: Mapping[str, NDArray[Any]]) -> Design:
        """The design of a model artefact's arrays."""
        return Design(
            arrays["mean"],
            arrays["scale"],
            arrays.get("design.lower"),
            arrays.get("design.upper"),
            arrays.get("design.feature"),
            arrays.get("design.edge"),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Inverse of :meth:`of`."""
        found = {
            "mean": self.mean,
            "scale": self.scale,
            "design.lower": self.lower,
            "design.upper": self.upper,
            "design.feature": self.feature,
            "design.edge": self.edge,
        }
        return {name: array for name, array in found.items() if array is not None}

    @property
    def plain(self) -> bool:
        """Whether it standardises and does nothing else."""
        return self.lower is None and self.feature is None

    @cached_property
    def binned(self) -> tuple[tuple[int, Floats], ...]:
        """Features with bins, each with its edges."""
        if self.feature is None or self.edge is None:
            return ()
        return tuple((int(j), self.edge[self.feature == j]) for j in np.unique(self.feature))

    @cached_property
    def kept(self) -> Integers:
        """Features without bins."""
        every = np.arange(len(self.mean))
        return np.setdiff1d(every, [j for j, _ in self.binned]) if self.binned else every

    @property
    def width(self) -> int:
        """Number of columns, the constant not counted."""
        if self.feature is None:
            return len(self.mean)
        return len(self.kept) + sum(len(edges) + 1 for _, edges in self.binned)

    def only(self) -> Design:
        """The design of the features without bins, alone."""
        at = self.kept
        lower = None if self.lower is None else self.lower[at]
        upper = None if self.upper is None else self.upper[at]
        return Design(self.mean[at], self.scale[at], lower, upper)

    def fits(self, d: int) -> bool:
        """Whether every array has a shape, type and range that a model of d features can have."""
        pairs = ((self.lower, self.upper), (self.feature, self.edge))
        if any((one is None) != (other is None) for one, other in pairs):
            return False
        for array in (self.mean, self.scale, self.lower, self.upper):
            if array is None:
                continue
            if array.dtype != np.float64 or array.shape != (d,) or not np.isfinite(array).all():
                return False
        if (self.scale <= 0).any():
            return False
        if self.lower is not None and self.upper is not None and (self.lower > self.upper).any():
            return False
        if self.feature is None or self.edge is None:
            return True
        well = (
            self.feature.dtype == np.int64
            and self.edge.dtype == np.float64
            and self.feature.ndim == 1
            and self.feature.shape == self.edge.shape
            and bool(np.isfinite(self.edge).all())
            and bool(((self.feature >= 0) & (self.feature < d)).all())
            and bool((np.diff(self.feature) >= 0).all())
        )
        return well and all((np.diff(edges) > 0).all() for _, edges in self.binned)

    def columns(self, rows: NDArray[Any]) -> Floats:
        """Columns of encoded features; O(n · width).

        Parameters
        ----------
        rows : ndarray, shape (n, d)
            Encoded features; NaN where missing.

        Returns
        -------
        ndarray of float64, shape (n, width)
        """
        x = np.array(rows, np.float64)
        if not self.plain or np.isnan(x.sum()):
            np.copyto(x, np.broadcast_to(self.mean, x.shape), where=np.isnan(x))
        if self.lower is not None and self.upper is not None:
            np.clip(x, self.lower, self.upper, out=x)
        if not self.binned:
            x -= self.mean
            x /= self.scale
            return x
        out = np.zeros((len(x), self.width))
        at = len(self.kept)
        out[:, :at] = (x[:, self.kept] - self.mean[self.kept]) / self.scale[self.kept]
        each = np.arange(len(x))
        for j, edges in self.binned:
            out[each, at + np.searchsorted(edges, x[:, j], side="right")] = 1.0 / self.scale[j]
            at += len(edges) + 1
        return out
