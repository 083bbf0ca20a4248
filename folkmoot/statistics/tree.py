"""Quantiles from a noised tree of counts (Hay et al. 2010, doi:10.14778/1920841.1920970).

Every level counts the same rows in bins of another width, each with noise of its own.  Least squares
over the constraint that children add up to their parent makes one consistent set of counts of them, in
two passes, with less noise in every range; a quantile is then read off the leaves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from folkmoot.statistics.questions import BRANCHES

__all__ = ["consistent", "quantile"]

Floats = NDArray[np.float64]


def consistent(nodes: Floats, levels: int) -> Floats:
    """Leaves of the tree that is nearest to noised counts of equal variance; O(nodes).

    Parameters
    ----------
    nodes : ndarray of float64
        Counts level after level, from the root's children on; the root is not counted.
    levels : int

    Returns
    -------
    ndarray of float64, shape (BRANCHES ** levels,)
    """
    b = float(BRANCHES)
    sizes = [BRANCHES**level for level in range(1, levels + 1)]
    noised = np.split(np.asarray(nodes, np.float64), np.cumsum(sizes)[:-1])
    up = [noised[-1]]  # bottom-up: weigh a node's own count against the sum of its children
    for height, own in enumerate(reversed(noised[:-1]), start=2):
        below = up[-1].reshape(-1, BRANCHES).sum(axis=1)
        up.append(
            ((b**height - b ** (height - 1)) * own + (b ** (height - 1) - 1) * below)
            / (b**height - 1)
        )
    up.reverse()
    down = up[0]  # top-down: share what a parent has more than its children
    for level in up[1:]:
        rest = down - level.reshape(-1, BRANCHES).sum(axis=1)
        down = level + np.repeat(rest / b, BRANCHES)
    return down


def quantile(leaves: Floats, edges: Floats, probability: float) -> tuple[float, float]:
    """The leaf in which a quantile lies; O(leaves).  Negative counts count as nought."""
    rows = np.maximum(leaves, 0.0)
    total = float(rows.sum())
    if total <= 0:
        return float(edges[0]), float(edges[-1])
    at = int(np.searchsorted(np.cumsum(rows), probability * total, side="left"))
    at = min(at, len(rows) - 1)
    return float(edges[at]), float(edges[at + 1])
