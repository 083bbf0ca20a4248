"""Held-out rows counted for a noised release: each row adds one to one bin, so its norm is 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext
from folkmoot.privacy.held_out import BINS, shape_of
from folkmoot.privacy.planned import COUNT_EXPONENT
from folkmoot.wire import Artefact
from site_tasks.home import SiteHome
from site_tasks.linear_loss import predict
from site_tasks.prepared import Prepared
from site_tasks.scaled import scaled_rows

__all__ = ["held_out_counts"]


def held_out_counts(
    model: Artefact, prepared: Prepared, context: RunContext, home: SiteHome
) -> NDArray[np.int64]:
    """Counts of held-out rows by label and prediction, in whole steps of ``2^-20``; O(n · d).

    Returns
    -------
    ndarray of int64, shape (prod(shape_of(contract)),)
    """
    contract = context.contract
    height, width = shape_of(contract)
    counts = np.zeros(height * width, np.int64)
    for found, y in _predictions(model, prepared, context, home):
        if contract.task == "regression":
            low, high = contract.label.bounds or (0.0, 1.0)
            label = np.zeros(len(y), np.int64)
            bins = np.nan_to_num(np.abs(found - y) / (high - low) * BINS, nan=BINS)
        elif contract.task == "multiclass":
            label, bins = y.astype(np.int64), found.argmax(axis=1).astype(np.float64)
        else:
            label, bins = y.astype(np.int64), np.nan_to_num(found * BINS)
        at = np.minimum(np.floor(bins), width - 1).astype(np.int64)
        counts += np.bincount(label * width + at, minlength=counts.size)
    return counts << COUNT_EXPONENT


def _predictions(
    model: Artefact, prepared: Prepared, context: RunContext, home: SiteHome
) -> Iterator[tuple[NDArray[np.float64], NDArray[Any]]]:
    """Probabilities or numbers, and labels, of the held-out rows."""
    if model.meta["kind"] == "trees":
        from site_tasks.train_trees import scores

        yield scores(model, prepared, "test", context, home), prepared.labels("test")
        return
    task, w = context.contract.task, parameters(model)
    for x, y, _ in scaled_rows(prepared, "test", model, context, home.name).chunks():
        yield predict(task, w, x), y
