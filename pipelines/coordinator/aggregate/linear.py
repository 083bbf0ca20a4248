"""Linear models: the initial global model from summed statistics, and FedAvg's weighted mean.

FedAvg and FedProx (McMahan et al. 2017; Li et al. 2020) and one-shot averaging of models trained
at the sites (``local_dp``) share one rule: add the weighted mean of the sites' changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import DataError, ProtocolError
from folkmoot.features import FeatureSpace, feature_space
from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext
from folkmoot.privacy.bins import Layout, public_scaling
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order, robust
from pipelines.coordinator.standing import measure, quarantined

__all__ = [
    "aggregate",
    "array_of",
    "change_of",
    "initial",
    "pack",
    "relative_change",
]

Floats = NDArray[np.float64]
Result = tuple[dict[str, Any], dict[str, Any]]


def initial(statistics: Sequence[ReleasedUpdate], context: RunContext) -> Artefact:
    """Global model before the first round: zeros, and the scaling that every site will use.

    Parameters
    ----------
    statistics : sequence of ReleasedUpdate
        The sites' parts ``statistics``: ``rows``, and per feature ``count``, ``sum`` and
        ``square`` about the public midpoint.  The part may be absent with private training.
    context : RunContext
        The run.

    Returns
    -------
    Artefact
        ``coef`` (K, d), ``intercept`` (K,), ``mean`` and ``scale`` (d,).  With ``data.scaling``
        ``federation`` these are the mean and population standard deviation of the pooled rows, as
        scikit-learn's ``StandardScaler`` has them; with ``bounds`` midpoint and half-width of the
        public bounds; with ``none`` 0 and 1.

    Raises
    ------
    PrivacyError
        ``privacy.order`` for anything that is no released update.
    ProtocolError
        ``protocol.mismatch`` for statistics of another shape.
    DataError
        ``data.missing`` where federation-wide scaling is asked for and no site has rows.
    """
    ordered = in_order(statistics)
    contract, params = context.contract, context.params
    space = feature_space(contract, params.anonymisation, "linear")
    classes = len(contract.classes) if contract.task == "multiclass" else 1
    mean, scale = _scaling(ordered, context, space)
    weights = {u.site: _rows(u, uniform=params.aggregation.weighting == "uniform") for u in ordered}
    meta = {
        "federation": context.federation,
        "run": context.run,
        "round": 0,
        "kind": "linear",
        "strategy": params.model.linear.strategy,
        "task": contract.task,
        "classes": list(contract.classes),
        "features": list(space.names),
        "l2": params.model.linear.l2,
        "participants": weights,
        "weights": weights,
        "parents": {u.site: u.digest for u in ordered},
        "private": params.privacy.mechanism in {"gaussian", "diffprivlib"}
        and not params.privacy.seeded
        and not params.privacy.simulate_sums,
    }
    arrays = {
        "coef": np.zeros((classes, len(space))),
        "intercept": np.zeros(classes),
        "mean": mean,
        "scale": scale,
    }
    if params.model.linear.strategy == "scaffold":
        arrays["state.control"] = np.zeros((classes, len(space) + 1))
    return Artefact("model", meta, arrays)


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> Result:
    """Add the weighted mean of the sites' changes to the global model; O(sites · K · d).

    Returns
    -------
    arrays, meta : dict, dict
        The next model's arrays, and ``change``: the relative change of the parameters.
    """
    ordered = in_order(updates)
    before = parameters(previous)
    delta, standing = change_of(ordered, before.shape, previous, context)
    return pack(previous, before + delta, meta=standing)


def pack(
    previous: Artefact,
    after: Floats,
    state: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Result:
    """Next model's arrays (scaling kept, ``state`` under ``state.<name>``) and meta."""
    arrays: dict[str, Any] = {
        "coef": np.ascontiguousarray(after[:, :-1]),
        "intercept": np.ascontiguousarray(after[:, -1]),
        "mean": previous.arrays["mean"],
        "scale": previous.arrays["scale"],
        **{f"state.{name}": value for name, value in (state or {}).items()},
    }
    change = relative_change(parameters(previous), after)
    return arrays, {"change": change, **(meta or {})}


def relative_change(before: Floats, after: Floats) -> float:
    """``|after - before| / |after|`` in the L2 norm; 0 where nothing moved, finite always."""
    moved, size = float(np.linalg.norm(after - before)), float(np.linalg.norm(after))
    if not np.isfinite(moved + size):
        return 1.0  # the coordinator refuses the model itself
    return moved / size if size > 0 else float(moved > 0)


def change_of(
    ordered: Sequence[ReleasedUpdate],
    shape: tuple[int, ...],
    previous: Artefact,
    context: RunContext,
) -> tuple[Floats, dict[str, Any]]:
    """What the sites' ``delta`` come to: their weighted mean, or as ``aggregation.defence`` says.

    Returns
    -------
    change : ndarray of float64, of ``shape``
    meta : dict
        ``standing`` of the sites where updates are compared, else nothing.
    """
    defence = context.params.aggregation.defence
    if defence.mode not in {"robust", "grouped"}:
        return _bounded(_mean_delta(ordered, shape), context), {}
    before = previous.meta.get("standing", {})
    out = quarantined(before)
    changes = np.stack([array_of(u, "update", "delta", shape).ravel() for u in ordered])
    weights = np.array([u.parts["update"].weight for u in ordered])
    changes, rows = robust.evened(changes, weights, context.params)
    counted = [i for i, u in enumerate(ordered) if u.site not in out]
    names = [ordered[i].site for i in counted]
    trusted = names.index(defence.trusted_site) if defence.trusted_site in names else None
    # Those in quarantine are no longer among the hostile ones that the rule has to bear.
    left = defence.model_copy(update={"hostile": max(0, defence.hostile - len(out))})
    own = None if rows is None else rows[counted]
    combined = robust.combine(changes[counted], left, trusted, own)
    sites = [u.site for u in ordered]
    standing = measure(before, sites, changes, combined, defence.quarantine_after)
    return combined.reshape(shape), {"standing": standing}


def _mean_delta(ordered: Sequence[ReleasedUpdate], shape: tuple[int, ...]) -> Floats:
    """Weighted mean of the parts' ``delta``, summed by site name."""
    total, weight = np.zeros(shape), 0.0
    for update in ordered:
        part = update.parts["update"]
        total += part.weight * array_of(update, "update", "delta", shape)
        weight += part.weight
    mean: Floats = total / weight
    return mean


def _bounded(mean: Floats, context: RunContext) -> Floats:
    """No longer than the clip norm, as a mean of clipped updates is.

    Under masks nobody sees whether a site clipped its update: this bounds what it moves in a round.
    """
    privacy = context.params.privacy
    if privacy.mechanism != "clip":
        return mean
    length = float(np.linalg.norm(mean))
    if length <= privacy.clip_norm * (1 + 1e-3):  # sums under masks are rounded
        return mean
    return mean * (privacy.clip_norm / length)


def array_of(update: ReleasedUpdate, part: str, name: str, shape: tuple[int, ...]) -> Floats:
    """An array of a released part as float64, if it has the shape that the round needs.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch``, naming the site.
    """
    found = update.parts[part].arrays.get(name) if part in update.parts else None
    if found is None or found.shape != shape or found.dtype.kind not in "iuf":
        raise ProtocolError(
            "protocol.mismatch",
            f"The {part} of site {update.site} has no array {name} of the expected shape.",
            "Check that the site runs the same version of folkmoot, params and contract.",
            site=update.site,
        )
    return found.astype(np.float64, copy=False)


def _rows(update: ReleasedUpdate, *, uniform: bool) -> float:
    if uniform:
        return float(len(update.sites))
    name = "weight" if "weight" in getattr(update.parts.get("statistics"), "arrays", {}) else "rows"
    return float(array_of(update, "statistics", name, ()))


def _scaling(
    ordered: Sequence[ReleasedUpdate], context: RunContext, space: FeatureSpace
) -> tuple[Floats, Floats]:
    kind, shape = context.params.data.scaling, (len(space),)
    if kind == "bounds" and context.params.privacy.clipping == "record":
        return public_scaling(Layout.of(context.contract, context.params.anonymisation))
    if kind == "none":
        return np.zeros(shape), np.ones(shape)
    if kind == "bounds":
        half = (space.upper - space.lower) / 2
        return space.centre, np.where(half > 0, half, 1.0)
    count, total, square = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for update in ordered:
        count += array_of(update, "statistics", "count", shape)
        total += array_of(update, "statistics", "sum", shape)
        square += array_of(update, "statistics", "square", shape)
    if not count.any():
        raise DataError(
            "data.missing",
            "No site has a single value to take the federation's mean and variance from.",
            "Add rows to the sites' datasets, or set data.scaling to bounds.",
        )
    some = np.maximum(count, 1.0)
    shift, second = total / some, square / some
    variance = second - shift * shift
    # A constant feature leaves only rounding behind; like StandardScaler, divide it by 1.
    constant = variance <= 1e-13 * second
    return space.centre + shift, np.where(constant, 1.0, np.sqrt(np.maximum(variance, 0.0)))
