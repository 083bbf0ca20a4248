"""A site's part of a linear round: sums for Newton, local training for every other strategy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError
from folkmoot.exchange import ArtifactRef
from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext, Step
from folkmoot.privacy.release import charge
from folkmoot.updates import LinearUpdate
from folkmoot.wire import Artefact
from site_tasks.control import load_control, save_control
from site_tasks.home import SiteHome
from site_tasks.linear_loss import sums
from site_tasks.local_training import descend, generator
from site_tasks.prepared import Prepared
from site_tasks.round_update import release_update
from site_tasks.scaled import ScaledRows, scaled_rows

__all__ = ["train"]

Floats = NDArray[np.float64]


def train(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Train on the site's rows from the incoming global model and release the update.

    Returns
    -------
    list of ArtifactRef
        ``round-RRR/update-<site>`` with the part ``update`` and, every
        ``aggregation.evaluate_every`` rounds, ``evaluation`` of the incoming model.

    Raises
    ------
    RoundError
        ``round.diverged`` where local training left the finite numbers (raised by privatise).
    ProtocolError
        Where the incoming model is missing, damaged or of another run or shape.
    """

    def update(home: SiteHome, prepared: Prepared, model: Artefact) -> LinearUpdate:
        rows = scaled_rows(prepared, "train", model, context, home.name)
        strategy = context.params.model.linear.strategy
        with np.errstate(over="ignore", invalid="ignore"):  # privatise judges what is not finite
            arrays = (_newton if strategy == "newton" else _local)(step, context, home, model, rows)
        return LinearUpdate(arrays, _weight(context, rows))

    return release_update(step, context, update, costs=charge(context.params.privacy))


def _weight(context: RunContext, rows: ScaledRows) -> float:
    """What the update counts for."""
    aggregation = context.params.aggregation
    if aggregation.weighting == "uniform":
        return 1.0
    most = aggregation.defence.weight_limit
    return rows.weight if most is None else min(rows.weight, most)


def _newton(
    step: Step, context: RunContext, home: SiteHome, model: Artefact, rows: ScaledRows
) -> dict[str, Floats]:
    """Summed loss, gradient and Hessian at the global model; O(n · (K d)²)."""
    w = parameters(model)
    found = sums(context.contract.task, w, rows.chunks())
    return {
        "loss": np.array(found.loss),
        "gradient": found.gradient.ravel(),
        "hessian": found.hessian.reshape(w.size, w.size),
    }


def _local(
    step: Step, context: RunContext, home: SiteHome, model: Artefact, rows: ScaledRows
) -> dict[str, Floats]:
    """Change of the parameters by local descent, and of the control variate for SCAFFOLD."""
    settings = context.params.model.linear
    w = parameters(model)
    scaffold = settings.strategy == "scaffold"
    control = shared = None
    if scaffold:
        control = load_control(context, home, step.round, model, w.shape)
        shared = _shared_control(model, w.shape)
    after, steps = descend(
        context.contract.task,
        w,
        rows,
        generator(settings.seed, step.round, home.name),
        epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        l2=_share(context, model, rows),
        proximal=settings.proximal if settings.strategy == "fedprox" else 0.0,
        correction=shared - control if shared is not None and control is not None else None,
    )
    arrays = {"delta": after - w}
    if control is not None and shared is not None:
        # Option II of the paper: the mean gradient that the site met on its way.
        change = -shared + (w - after) / (steps * settings.learning_rate)
        if np.isfinite(change).all():
            save_control(context, home, step.round, control + change)
        arrays["control"] = change
    return arrays


def _share(context: RunContext, model: Artefact, rows: ScaledRows) -> float:
    """The site's share of ``l2`` per row (see :mod:`site_tasks.local_training`)."""
    l2 = context.params.model.linear.l2
    if context.params.aggregation.weighting == "uniform":
        return l2 / (len(context.params.federation.members) * rows.weight)
    total: float = sum(model.meta["weights"].values())
    return l2 / max(total, rows.weight)


def _shared_control(model: Artefact, shape: tuple[int, ...]) -> Floats:
    control = model.arrays.get("state.control")
    if control is None or control.shape != shape:
        raise ProtocolError(
            "protocol.mismatch",
            "The incoming model has no control variate of its own shape.",
            "Check that the coordinator runs the same version of folkmoot.",
        )
    return control
