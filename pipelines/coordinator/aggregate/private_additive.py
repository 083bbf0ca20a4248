"""Rounds of the private additive booster: those of the linear model, then one tree per column.

The linear model's arrays (:mod:`pipelines.coordinator.aggregate.private_rounds`) travel beside the
trees that are made of them, for the next round goes on from them.  All of it is post-processing of
noised sums, and so are ``gain`` (d,), half the squared change of the margins that a column makes over
the noised Gram matrix's rows, and ``leaf_noise`` (nodes,), what the noise gives to each leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.features import feature_space
from folkmoot.models.design import Design
from folkmoot.models.tree_format import dump_trees
from folkmoot.models.trees import outputs
from folkmoot.plan import RunContext
from folkmoot.privacy.planned import Schedule
from folkmoot.privacy.training import schedule
from folkmoot.trees.additive import additive_trees, as_linear, columns_of, fitting
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order, private_rounds
from pipelines.coordinator.aggregate.private_moments import symmetric

__all__ = ["aggregate"]

Floats = NDArray[np.float64]
OWN = ("trees", "gain", "leaf_noise")
MEASURED = "design.rows"


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the linear model's step and write it as trees; O(D²) per gradient, O(D³) once.

    Returns
    -------
    arrays, meta : dict, dict

    Raises
    ------
    ProtocolError
        ``protocol.mismatch`` for a sum of another shape, naming the site.
    """
    contract, anonymisation = context.contract, context.params.anonymisation
    inner = replace(context, params=as_linear(context.params))
    classes = outputs(previous.meta)
    kept = {name: array for name, array in previous.arrays.items() if name not in OWN}
    rows = kept.pop(MEASURED, None)
    if round == 1:
        d = len(feature_space(contract, anonymisation, "linear"))
        kept = {"coef": np.zeros((classes, d)), "intercept": np.zeros(classes)}
        kept |= {"mean": np.zeros(d), "scale": np.ones(d)}
    before = replace(previous, arrays=kept)
    arrays, meta = private_rounds.aggregate(before, updates, inner, round)
    planned = schedule(context.params, contract)
    if round == 1:
        arrays = {**arrays, **fitting(Design.of(arrays)).arrays()}
    if planned.of(round).kind == "gram":
        rows = _rows_of(arrays, updates, inner, planned, round)
    design = Design.of(arrays)
    trees = additive_trees(design, arrays["coef"], arrays["intercept"], contract, anonymisation)
    deviation = _deviation(before, updates, inner, planned, round, arrays["coef"].shape)
    of_noise = additive_trees(design, deviation, np.zeros(classes), contract, anonymisation)
    noise = [np.abs(np.asarray(tree["split_conditions"], np.float32)) for tree in of_noise]
    for tree, values in zip(of_noise, noise, strict=True):
        values[np.asarray(tree["left_children"]) != -1] = 0.0
    if rows is not None:
        arrays[MEASURED] = rows
    return {
        **arrays,
        "trees": np.frombuffer(dump_trees(trees), np.uint8),
        "gain": _gain(design, arrays["coef"], rows, contract, anonymisation),
        "leaf_noise": np.concatenate(noise),
    }, {**meta, "trees": len(trees)}


def _rows_of(
    arrays: dict[str, Any],
    updates: Sequence[ReleasedUpdate],
    inner: RunContext,
    planned: Schedule,
    round: int,
) -> Floats:
    """Noised sum of squares of each column: the diagonal of the Gram matrix."""
    width = Design.of(arrays).width + 1
    size = width * (width + 1) // 2
    release = planned.of(round)
    total = private_rounds.total_of(in_order(updates), release, size, inner, round)
    return np.maximum(np.diag(symmetric(total, width)), 0.0)[:-1]


def _gain(
    design: Design, coef: Floats, rows: Floats | None, contract: Any, anonymisation: Any
) -> Floats:
    """By column of the contract: half the curvature of what its columns add to the margins."""
    curvature = private_rounds.CURVATURE["additive"]
    of_feature = columns_of(design)
    owner = _owners(contract, anonymisation)
    gain = np.zeros(len(contract.inputs))
    if rows is None:
        return gain
    for feature, at in of_feature.items():
        own, weight = coef[:, at], rows[at]
        if feature in dict(design.binned) and weight.sum() > 0:  # a curve's level says nothing
            own = own - (own @ weight / weight.sum())[:, None]
        gain[owner[feature]] += 0.5 * curvature * float(np.sum(own**2 @ weight))
    return gain


def _owners(contract: Any, anonymisation: Any) -> list[int]:
    """Column of the contract by linear feature."""
    from folkmoot.privacy.bins import Layout

    return list(Layout.of(contract, anonymisation).columns)


def _deviation(
    before: Artefact,
    updates: Sequence[ReleasedUpdate],
    inner: RunContext,
    planned: Schedule,
    round: int,
    shape: tuple[int, ...],
) -> Floats:
    """Standard deviation that the gradients' noise gives to coefficients, to first order; O(D³).

    A step of length l along the inverse ``A`` of curvature plus ridge r takes back ``l (1 - r a)`` of
    what was there in A's direction of eigenvalue a: where rows say much, noise is forgotten within a
    step or two, and where they say next to nothing it adds up.  The last model is a mean of steps.
    """
    inverse = before.arrays.get("state.inverse")
    gradients = [number for number, r in enumerate(planned.releases, 1) if r.kind == "gradient"]
    if inverse is None or round not in gradients:
        return np.zeros(shape)
    values, vectors = np.linalg.eigh(inverse)
    length = min(1.0, private_rounds.WHOLE_STEPS / len(gradients))
    kept = 1 - length * (1 - values / values.max())
    done = gradients.index(round) + 1
    first = done  # of the steps whose mean the model is, counted from 1
    if round == planned.rounds:
        first = done - max(1, int(private_rounds.AVERAGED * len(gradients))) + 1
    square = np.zeros_like(values)
    for step in range(1, done + 1):  # what is left of this step's noise
        left = [kept ** (later - step) for later in range(max(first, step), done + 1)]
        square += (np.sum(left, axis=0) / (done - first + 1)) ** 2
    sites = sum(len(update.sites) for update in updates)
    one = private_rounds.deviation_of(planned, planned.of(round), sites, inner)
    spread = length * one * np.sqrt(np.square(vectors) @ (np.square(values) * square))
    return np.tile(spread[: shape[1]], (shape[0], 1))
