"""Rounds of private trees: base score from noised label counts, leaves from noised sums.

Everything here is post-processing of noised sums.  Beside the trees the model carries what they say
of themselves, by released sums alone: ``gain`` (d,) per feature, without what noise adds to it, and
``leaf_noise`` (nodes,), the standard deviation that the noise gives to each leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.models.tree_format import Tree, dump_trees, join_trees
from folkmoot.models.trees import outputs, tree_bytes
from folkmoot.plan import RunContext
from folkmoot.privacy.training import schedule
from folkmoot.trees.private import HESSIAN, NOISE_L2, step_length
from folkmoot.trees.private_splits import Grid, RandomTree, draw_round
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order
from pipelines.coordinator.aggregate.private_rounds import deviation_of, total_of

__all__ = ["aggregate"]

Floats = NDArray[np.float64]
#: Least share of a class, so that no base score is infinite.
LEAST_SHARE = 1e-3


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The labels' base score in round 1, then the round's trees; O(leaves).

    Returns
    -------
    arrays, meta : dict, dict
        ``trees``, ``gain``, ``leaf_noise``; ``trees`` (count), ``base_score`` after round 1,
        ``method``, ``why``, ``release``, ``central``.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch`` for a sum of another shape, naming the site.
    """
    ordered = in_order(updates)
    planned = schedule(context.params, context.contract)
    release = planned.of(round)
    sites = sum(len(update.sites) for update in ordered)
    deviation = deviation_of(planned, release, sites, context)
    meta: dict[str, Any] = {
        "method": planned.method,
        "why": planned.why,
        "release": release.kind,
        "central": context.params.privacy.noise == "coordinator",
        "change": None,
    }
    if release.kind == "labels":
        size = len(context.contract.classes) or 2
        counts = total_of(ordered, release, size, context, round)
        arrays = {
            "trees": np.frombuffer(tree_bytes(previous), np.uint8),
            "gain": np.zeros(len(previous.meta["features"])),
            "leaf_noise": np.zeros(0, np.float32),
        }
        base = [float(str(np.float32(value))) for value in _base_score(counts, context)]
        return arrays, {**meta, "base_score": base}
    drawn = draw_round(Grid.of(context.contract, context.params), context.params, round - 1)
    classes = outputs(previous.meta)
    size = sum(2 * classes * len(tree.leaves) for tree in drawn)
    total = total_of(ordered, release, size, context, round)
    grown, gain, noise = _grown(drawn, total, classes, deviation, context)
    data = join_trees(tree_bytes(previous), dump_trees(grown))
    arrays = {
        "trees": np.frombuffer(data, np.uint8),
        "gain": previous.arrays["gain"] + gain,
        "leaf_noise": np.concatenate([previous.arrays["leaf_noise"], noise]),
    }
    return arrays, {**meta, "trees": int(previous.meta["trees"]) + len(grown)}


def _grown(
    drawn: Sequence[RandomTree],
    total: Floats,
    classes: int,
    deviation: float,
    context: RunContext,
) -> tuple[list[Tree], Floats, NDArray[np.float32]]:
    """Trees with leaves, gain by feature, and the deviation of the noise by node."""
    params, unit, scale = context.params, 1.0, 1.0
    if context.contract.task == "regression":
        low, high = context.contract.label.bounds or (-1.0, 1.0)
        unit, scale = (high - low) / 2, HESSIAN
    step = step_length(params) * unit
    penalty = params.model.trees.reg_lambda + NOISE_L2 * deviation
    trees: list[Tree] = []
    noise: list[NDArray[np.float32]] = []
    gain = np.zeros(len(Grid.of(context.contract, params)))
    start = 0
    for tree in drawn:
        count = len(tree.leaves)
        sums = total[start : start + 2 * classes * count].reshape(2, classes, count)
        start += 2 * classes * count
        nodes = len(tree.tree["left_children"])
        for gradient, hessian in zip(sums[0], np.maximum(sums[1], 0.0) / scale, strict=True):
            weight = 1.0 / (hessian + penalty)
            trees.append(tree.with_leaves(-step * gradient * weight))
            by_node = np.zeros(nodes, np.float32)
            # Of the gradient's noise, and to first order of the Hessian's.
            both = np.hypot(1.0, gradient * weight / scale)
            by_node[tree.leaves] = step * deviation * weight * both
            noise.append(by_node)
            found = float(np.sum((gradient**2 - deviation**2) * weight))
            gain[list(tree.features)] += found / len(tree.features)
    return trees, gain, np.concatenate(noise)


def _base_score(counts: Floats, context: RunContext) -> Floats:
    """As XGBoost means it, from noised counts of labels."""
    contract = context.contract
    if contract.task == "regression":
        low, high = contract.label.bounds or (-1.0, 1.0)
        mean = float(np.clip(counts[1] / max(float(counts[0]), 1.0), -1.0, 1.0))
        return np.array([(low + high) / 2 + mean * (high - low) / 2])
    share = np.maximum(counts, 0.0) + 1.0
    share = np.clip(share / share.sum(), LEAST_SHARE, 1 - LEAST_SHARE)
    if contract.task == "binary":
        return np.array([share[1] / share.sum()])
    margins = np.log(share)
    return np.asarray(margins - margins.mean())
