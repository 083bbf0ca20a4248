"""Private rounds: noised histograms, a noised Gram matrix as fixed Hessian, noised gradients.

Everything here is post-processing of noised sums.  The Gram matrix ``G`` of clipped rows bounds the
Hessian of the logistic loss from above (Böhning 1992: H <= G / 4); its noise is repaired by dropping
negative eigenvalues, and a ridge of the size of that noise keeps the step from following it.  The
model of the last round is the mean of the later iterates, which averages noise away (Polyak &
Juditsky 1992).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError
from folkmoot.models.design import Design
from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext
from folkmoot.privacy.bins import Layout, edges_of, moments_of
from folkmoot.privacy.planned import Release, Schedule
from folkmoot.privacy.training import clip_of, schedule
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order
from pipelines.coordinator.aggregate.linear import relative_change
from pipelines.coordinator.aggregate.private_moments import adassp, symmetric
from pipelines.coordinator.central_noise import central_noise

__all__ = ["aggregate", "deviation_of", "total_of"]

Floats = NDArray[np.float64]
Result = tuple[dict[str, Any], dict[str, Any]]

#: Mean curvature of the logistic loss as a share of the Gram matrix, by basis (1/4 at most).
CURVATURE = {"linear": 0.12, "additive": 0.08}
#: Deviation of a standardised number, and the height of a bin's indicator.
SPREAD, HEIGHT = 0.35, 0.7
#: Share of rows beyond a winsorising bound, and deviations of noise that a bin must stand above.
TAIL, ABOVE = 0.02, 8.0
#: Whole steps that a run has room for: more steps are shorter, which averages their noise.
WHOLE_STEPS = 10
#: Share of the iterates, the last ones, whose mean is the model.
AVERAGED = 0.6
#: How quickly an adaptive clip moves (Andrew et al. 2021 take 0.2).
ADAPTION = 0.5
#: Step of the method ``gradient``, for the mean gradient.
STEP = 3.0


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> Result:
    """Take the step of the round's release; O(D²) per gradient, O(D³) once for the Hessian.

    Returns
    -------
    arrays, meta : dict, dict
        Meta has ``method``, ``why`` and ``release`` (what was summed), and ``change``.

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
    if release.kind == "histogram":
        arrays = _designed(previous, ordered, release, deviation, context, round)
    elif release.kind == "gram":
        arrays = _curved(previous, ordered, release, deviation, planned, context, round)
    else:
        arrays = _stepped(previous, ordered, release, planned, context, round)
    meta: dict[str, Any] = {
        "method": planned.method,
        "why": planned.why,
        "release": release.kind,
        "central": context.params.privacy.noise == "coordinator",
    }
    before, after = parameters(previous), np.column_stack([arrays["coef"], arrays["intercept"]])
    meta["change"] = relative_change(before, after) if before.shape == after.shape else 1.0
    return arrays, meta


def deviation_of(planned: Schedule, release: Release, sites: int, context: RunContext) -> float:
    """Standard deviation of the noise in the sum that was received, in units of the data."""
    one = release.noise_multiplier * release.sensitivity
    if context.params.privacy.noise == "coordinator":
        return one
    return one * planned.share * float(np.sqrt(sites))


def total_of(
    ordered: Sequence[ReleasedUpdate],
    release: Release,
    size: int,
    context: RunContext,
    round: int,
) -> Floats:
    """The sites' noised sums together, in units of the data."""
    total = np.zeros(size, np.int64)
    for update in ordered:
        part = update.parts["update"].arrays
        found = part.get("sum")
        if part.keys() != {"sum"} or found is None:
            raise _shapeless(update)
        if found.dtype != np.int64 or found.shape != (size,):
            raise _shapeless(update)
        total += found
    if context.params.privacy.noise == "coordinator":
        total += central_noise(context, round, release, total)
    return np.asarray(total * 2.0**-release.exponent, np.float64)


def _designed(
    previous: Artefact,
    ordered: Sequence[ReleasedUpdate],
    release: Release,
    deviation: float,
    context: RunContext,
    round: int,
) -> dict[str, Any]:
    """Scaling, winsorising bounds and bins from noised histograms."""
    layout = Layout.of(context.contract, context.params.anonymisation)
    counts = total_of(ordered, release, layout.size, context, round)
    mean, spread, lower, upper = moments_of(layout, counts, TAIL)
    number = np.array([edges is not None for edges in layout.edges])
    range_ = layout.upper - layout.lower
    scale = np.where(number, np.maximum(spread, 1e-6 * range_) / SPREAD, 1.0)
    if context.params.model.linear.basis == "additive":
        features: list[int] = []
        edges: list[float] = []
        most = context.params.model.linear.bins
        for j in np.flatnonzero(number):
            found = edges_of(layout, int(j), counts, most, ABOVE * deviation)
            features += [int(j)] * len(found)
            edges += found.tolist()
        binned = np.isin(np.arange(len(scale)), features)
        scale = np.where(binned, 1 / HEIGHT, scale)
        lower, upper = np.where(binned, layout.lower, lower), np.where(binned, layout.upper, upper)
        bins = np.array(features, np.int64), np.array(edges, np.float64)
        design = Design(np.where(number, mean, 0.0), scale, lower, upper, *bins)
    else:
        design = Design(mean, scale, lower, upper)
    classes = len(previous.arrays["coef"])
    return {
        **design.arrays(),
        "coef": np.zeros((classes, design.width)),
        "intercept": np.zeros(classes),
    }


def _curved(
    previous: Artefact,
    ordered: Sequence[ReleasedUpdate],
    release: Release,
    deviation: float,
    planned: Schedule,
    context: RunContext,
    round: int,
) -> dict[str, Any]:
    """The inverse of the noised Hessian; for regression the model itself."""
    design = Design.of(previous.arrays)
    width = design.width + 1 + (planned.method == "moments")
    gram = symmetric(total_of(ordered, release, width * (width + 1) // 2, context, round), width)
    kept = {k: v for k, v in previous.arrays.items() if not k.startswith("state.")}
    if planned.method == "moments":
        w = adassp(gram, deviation, context.params.model.linear.l2)
        low, high = context.contract.label.bounds or (-1.0, 1.0)
        w *= (high - low) / 2
        w[-1] += (high + low) / 2
        return {**kept, "coef": w[None, :-1], "intercept": w[-1:]}
    curvature = CURVATURE[context.params.model.linear.basis]
    values, vectors = np.linalg.eigh(gram)
    ridge = curvature * deviation * np.sqrt(width)
    values = np.maximum(values, 0.0) * curvature + ridge + context.params.model.linear.l2
    return {**kept, "state.inverse": (vectors / values) @ vectors.T}


def _stepped(
    previous: Artefact,
    ordered: Sequence[ReleasedUpdate],
    release: Release,
    planned: Schedule,
    context: RunContext,
    round: int,
) -> dict[str, Any]:
    """One step from a noised gradient; in the last round the mean of the last iterates."""
    w = parameters(previous)
    found = total_of(ordered, release, w.size + bool(release.counted), context, round)
    gradient, clip = found[: w.size].reshape(w.shape), 0.0
    if release.counted:
        clip = clip_of(previous, release)
        gradient = gradient * clip
        clip *= _adapted(float(found[-1]), release, context)
    gradient[:, :-1] += context.params.model.linear.l2 * w[:, :-1]
    if planned.method == "newton":
        steps = sum(r.kind == "gradient" for r in planned.releases)
        length = min(1.0, WHOLE_STEPS / steps)
        after = w - length * gradient @ previous.arrays["state.inverse"]
    else:
        after = w - STEP * gradient / float(context.params.privacy.rows or 1)
    arrays = dict(previous.arrays)
    last = planned.rounds
    if clip:
        arrays["state.clip"] = np.array(clip)
        if round == last:
            del arrays["state.clip"]
    if planned.method == "newton":
        averaged = max(1, int(AVERAGED * steps))
        if round > last - averaged:
            total = arrays.pop("state.total", np.zeros_like(after)) + after
            arrays["state.total"] = total
            if round == last:
                after = total / averaged
                del arrays["state.total"], arrays["state.inverse"]
    arrays["coef"] = np.ascontiguousarray(after[:, :-1])
    arrays["intercept"] = np.ascontiguousarray(after[:, -1])
    return arrays


def _adapted(counted: float, release: Release, context: RunContext) -> float:
    """Factor of the next clip: down where more gradients than wanted were within it, else up."""
    rows = float(context.params.privacy.rows or 1)
    share = min(max(counted / release.counted / rows, 0.0), 1.0)
    return math.exp(-ADAPTION * (share - float(context.params.privacy.adaptive_clip or 0.5)))


def _shapeless(update: ReleasedUpdate) -> ProtocolError:
    return ProtocolError(
        "protocol.mismatch",
        f"The update of site {update.site} is no sum of the expected shape.",
        "Check that the site runs the same version of folkmoot, params and contract.",
        site=update.site,
    )
