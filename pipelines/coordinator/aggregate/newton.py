"""Federated Newton: gradients and Hessians are summed, so the result is that of pooled training.

With the sites' sums at the global model ``w`` the coordinator knows the pooled objective
``F(w) = loss + l2/2 |coef|²`` exactly and takes the step ``-H⁻¹ g``.  For linear and ridge
regression these are the normal equations: one round is enough.  For logistic regression a step is
kept only if it lowered F as much as Armijo's rule asks, which the next round's sums tell; else the
next round tries half of it (Nocedal & Wright 2006, ch. 3).  Convergence is quadratic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order
from pipelines.coordinator.aggregate.linear import array_of, pack, relative_change

__all__ = ["aggregate", "solve"]

Floats = NDArray[np.float64]
#: Share of the decrease that the slope promises which a step must bring.
ARMIJO = 1e-4
#: F is a sum of many terms: differences below this share of it are rounding.
ROUNDING = 1e-10
#: Steps are not halved further than this.
SMALLEST_STEP = 2.0**-20


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take a Newton step, or halve the last one; O(sites · D² + D³) with D = K (d + 1).

    Returns
    -------
    arrays, meta : dict, dict
        Meta has ``change`` (relative change of the parameters; for regression what a further
        step would still change), ``objective`` (F at the previous model), ``decrement``
        (Newton's, the squared length of the step in the metric of H) and ``step`` (1, ½, ¼ …).
    """
    ordered = in_order(updates)
    w = parameters(previous)
    loss, gradient, hessian = _summed(ordered, w.size)
    penalty = np.zeros_like(w)
    penalty[:, :-1] = context.params.model.linear.l2
    objective = loss + 0.5 * float((penalty * w * w).sum())
    gradient += (penalty * w).ravel()
    hessian[np.diag_indices(w.size)] += penalty.ravel()

    halved = _halved(previous, ordered, objective, context)
    if halved is not None:
        base, direction, step = halved
        state = {"base": base, "direction": direction}
        meta = {k: previous.meta[k] for k in ("objective", "decrement")}
        return pack(previous, base + step * direction, state, {**meta, "step": step})

    step_vector = -solve(hessian, gradient, len(w))
    after = w + step_vector.reshape(w.shape)
    meta = {
        "objective": objective,
        "decrement": -float(gradient @ step_vector),
        "step": 1.0,
    }
    if context.contract.task == "regression":
        # F is quadratic, so its gradient at the new model is known without another round.
        rest = solve(hessian, gradient + hessian @ step_vector, len(w))
        meta["change"] = relative_change(after, after - rest.reshape(w.shape))
        return pack(previous, after, meta=meta)
    return pack(previous, after, {"base": w, "direction": after - w}, meta)


def solve(hessian: Floats, gradient: Floats, classes: int) -> Floats:
    """``H⁻¹ g`` for a symmetric positive semi-definite H, of least norm where H is singular.

    Parameters
    ----------
    hessian : ndarray of float64, shape (D, D)
    gradient : ndarray of float64, shape (D,)
    classes : int
        K rows of parameters.  For K > 1 adding the same vector to every class changes no
        probability; these directions are filled in, so that the step has no part in them.

    Returns
    -------
    ndarray of float64, shape (D,)
        Through LU where H is well conditioned, else through its eigenvectors; directions without
        curvature (and those that noise made negative) are left alone.
    """
    h = (hessian + hessian.T) / 2
    size = len(h)
    if classes > 1:
        width = size // classes
        blocks = h.reshape(classes, width, classes, width)
        each = np.arange(width)
        blocks[:, each, :, each] += np.trace(h) / size / classes
    diagonal = np.sqrt(np.maximum(np.diag(h), 0.0))
    if diagonal.all():
        scaled = h / diagonal / diagonal[:, None]
        try:
            pivots = np.diag(np.linalg.cholesky(scaled))
        except np.linalg.LinAlgError:
            pivots = np.zeros(1)
        if pivots.min() > 1e-6:  # squared: the condition stays below about 1e12
            direct: Floats = np.linalg.solve(scaled, gradient / diagonal) / diagonal
            return direct
    values, vectors = np.linalg.eigh(h)
    kept = values > values.max() * size * np.finfo(np.float64).eps
    basis = vectors[:, kept]
    least: Floats = basis @ ((basis.T @ gradient) / values[kept])
    return least


def _summed(ordered: Sequence[ReleasedUpdate], size: int) -> tuple[float, Floats, Floats]:
    loss, gradient, hessian = 0.0, np.zeros(size), np.zeros((size, size))
    for update in ordered:
        loss += float(array_of(update, "update", "loss", ()))
        gradient += array_of(update, "update", "gradient", (size,))
        hessian += array_of(update, "update", "hessian", (size, size))
    return loss, gradient, hessian


def _halved(
    previous: Artefact, ordered: Sequence[ReleasedUpdate], objective: float, context: RunContext
) -> tuple[Floats, Floats, float] | None:
    """Base, direction and half the step, where the last step did not lower F enough.

    Never where noise hides F, nor where other sites took part, whose sum is another F.
    """
    meta, arrays = previous.meta, previous.arrays
    if "state.direction" not in arrays or context.params.privacy.mechanism != "none":
        return None
    if sorted(meta.get("participants", {})) != [
        site for update in ordered for site in update.sites
    ]:
        return None
    before, step = float(meta["objective"]), float(meta["step"])
    wanted = before - ARMIJO * step * float(meta["decrement"])
    if objective <= wanted + ROUNDING * abs(before) or step / 2 < SMALLEST_STEP:
        return None
    return arrays["state.base"], arrays["state.direction"], step / 2
