"""Adaptive optimisers at the coordinator (Reddi et al. 2021, "Adaptive Federated Optimization").

The weighted mean of the sites' changes is taken for a gradient (arXiv 2003.00295, algorithm 2)::

    m = beta1 m + (1 - beta1) delta
    v = v + delta²                                  FedAdagrad (with beta1 = 0)
    v = v - (1 - beta2) delta² sign(v - delta²)     FedYogi
    v = beta2 v + (1 - beta2) delta²                FedAdam
    w = w + server_learning_rate m / (sqrt(v) + tau)

with ``m = 0`` and ``v = tau²`` before the first round.  Both travel in the model as state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order
from pipelines.coordinator.aggregate.linear import change_of, pack

__all__ = ["aggregate"]

#: Every parameter moves about this far in a round, whatever the size of its change.
DEFAULT_RATE = 0.1


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take one step of FedAdam, FedYogi or FedAdagrad; O(sites · K · d).

    Returns
    -------
    arrays, meta : dict, dict
        The next model's arrays with ``state.m`` and ``state.v``, and ``change``.
    """
    ordered = in_order(updates)
    settings = context.params.model.linear
    before = parameters(previous)
    delta, standing = change_of(ordered, before.shape, previous, context)
    square = delta * delta
    m = previous.arrays.get("state.m", np.zeros_like(before))
    v = previous.arrays.get("state.v", np.full_like(before, settings.tau**2))
    if settings.strategy == "fedadagrad":
        m, v = delta, v + square
    else:
        m = settings.beta1 * m + (1 - settings.beta1) * delta
        if settings.strategy == "fedyogi":
            v = v - (1 - settings.beta2) * square * np.sign(v - square)
        else:
            v = settings.beta2 * v + (1 - settings.beta2) * square
    rate = settings.server_learning_rate or DEFAULT_RATE
    after = before + rate * m / (np.sqrt(v) + settings.tau)
    return pack(previous, after, {"m": m, "v": v}, standing)
