"""Gain and cover of a session's trees: sums over all sites, which every worker holds alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NAMES", "figures_of", "fit", "wanted"]

Arrays = dict[str, NDArray[np.float32]]
#: Arrays of the global model, one number per node of all trees, and what XGBoost calls them.
NAMES = {"gain": "loss_changes", "hessian": "sum_hessian"}


def wanted(model: Mapping[str, Any]) -> bool:
    """Whether a global model's arrays have a place for them: one begun by an older version has not."""
    return model.keys() >= NAMES.keys()


def figures_of(trees: Sequence[Mapping[str, Any]]) -> Arrays:
    """Figures of trees of XGBoost's own JSON; O(nodes).

    Returns
    -------
    dict of str to ndarray of float32, shape (nodes of all trees,)
        ``gain`` of a split (0 at a leaf) and ``hessian``, summed over the rows of all sites.
    """
    found = {}
    for name, theirs in NAMES.items():
        values = [np.asarray(tree[theirs], np.float32) for tree in trees]
        found[name] = np.concatenate([np.zeros(0, np.float32), *values])
    return found


def fit(arrays: Mapping[str, NDArray[Any]], nodes: int) -> bool:
    """Whether what a site sent are figures of so many nodes, all finite and no cover below 0."""
    return arrays.keys() == NAMES.keys() and all(
        array.shape == (nodes,)
        and array.dtype == np.float32
        and bool(np.isfinite(array).all())
        and (name != "hessian" or bool((array >= 0).all()))
        for name, array in arrays.items()
    )
