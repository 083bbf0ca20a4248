"""SHAP's summary of a tree model as a picture: one point per made-up row and feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from folkmoot.trees.export import Explained

__all__ = ["canvas", "swarm"]

#: Slices of the margin's range in which points are stacked.
_SLICES = 80


def canvas(width: float, height: float) -> Figure:
    """An empty figure, size in inches, without pyplot: no global state, no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def swarm(found: Explained, most: int) -> Figure:
    """Contributions by feature, the largest first, coloured by the feature's value; O(rows · d).

    Parameters
    ----------
    found : Explained
        Of made-up rows.  Of several margins a row's largest contribution is drawn.
    most : int
        Most features that are drawn.

    Notes
    -----
    After the beeswarm of Lundberg et al. 2020, doi:10.1038/s42256-019-0138-9.  Privacy cost: none;
    the model and the contract are public.
    """
    sizes = found.sizes()
    order = sorted(sizes, key=lambda name: (-sizes[name], name))[:most]
    largest = np.abs(found.values).argmax(axis=1)
    values = np.take_along_axis(found.values, largest[:, None, :], axis=1)[:, 0, :]
    figure = canvas(7.0, 1.4 + 0.32 * len(order))
    axes = figure.add_subplot()
    axes.axvline(0.0, color="0.8", linewidth=0.8, zorder=0)
    reach = float(np.abs(values).max(initial=0.0)) or 1.0
    for line, name in enumerate(order):
        j = found.features.index(name)
        low, high = found.rows[:, j].min(), found.rows[:, j].max()
        share = (found.rows[:, j] - low) / ((high - low) or 1.0)
        heights = line + _stacked(values[:, j], reach)
        points = axes.scatter(
            values[:, j], heights, c=share, cmap="coolwarm", vmin=0, vmax=1, s=6, linewidths=0
        )
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel("adds to the margin of a made-up row")
    axes.set_title("SHAP contributions")
    bar = figure.colorbar(points, ax=axes, ticks=[0, 1], aspect=40, pad=0.02)
    bar.ax.set_yticklabels(["low", "high"])
    bar.set_label("value of the feature", labelpad=-14)
    return figure


def _stacked(values: NDArray[np.float32], reach: float) -> NDArray[np.float64]:
    """Heights around 0, within 0.4, that keep points of one slice of the axis apart."""
    slices = np.round(values / reach * _SLICES).astype(np.int64)
    _, place, counts = np.unique(slices, return_inverse=True, return_counts=True)
    rank = np.empty(len(values), np.float64)
    for slice in range(len(counts)):
        own = np.flatnonzero(place == slice)
        rank[own] = np.arange(len(own)) - (len(own) - 1) / 2
    share: float = 0.8 / max(20, int(counts.max(initial=1)))
    return rank * share
