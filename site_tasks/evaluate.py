"""Evaluate a global model on a site's held-out rows: counts leave, scores never do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from folkmoot import metrics
from folkmoot.errors import ProtocolError
from folkmoot.exchange import ArtifactRef
from folkmoot.models.design import Design
from folkmoot.models.linear import parameters
from folkmoot.params import Params
from folkmoot.plan import RunContext, Step, keys
from folkmoot.updates import Statistics
from folkmoot.wire import Artefact, decode
from site_tasks import orders
from site_tasks.home import SiteHome
from site_tasks.prepared import Prepared, load_prepared
from site_tasks.release import release

if TYPE_CHECKING:
    from folkmoot.privacy.events import Event

__all__ = ["check_shape", "counts_of", "due", "evaluate", "load_model"]

_READING = threading.Lock()


def evaluate(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Count how the model in ``step.inputs[0]`` does on the site's held-out rows, and release it.

    Returns
    -------
    list of ArtifactRef
        ``final/evaluation-<site>`` with the part ``evaluation``.

    Raises
    ------
    ProtocolError
        Where the model is missing, damaged or of another run or feature space.
    """
    home = SiteHome.find(step.place, context.workspace)
    prepared = load_prepared(context, home)
    model, model_digest = load_model(context, step.inputs[0], prepared)
    costs = _costs(context, prepared, home)
    ref = release(
        step,
        context,
        home,
        key=keys.evaluation(step.place),
        inputs=[model_digest, prepared.digest],
        make=lambda: _parts(model, prepared, context, home),
        fingerprint=prepared.fingerprint,
        costs=costs,
    )
    return [ref]


def _parts(
    model: Artefact, prepared: Prepared, context: RunContext, home: SiteHome
) -> dict[str, Any]:
    """Held-out counts as the plan lets them leave: exact, under noise, or not at all."""
    how = context.params.privacy.evaluates
    if how == "exact":
        return {"evaluation": counts_of(model, prepared, context, home)}
    if how == "none":
        return {}
    from folkmoot.privacy.training import schedule
    from site_tasks.private.evaluation import held_out_counts
    from site_tasks.privatise import ClippedSum

    planned = schedule(context.params, context.contract)
    if planned.evaluation is None:
        return {}
    values = held_out_counts(model, prepared, context, home)
    return {"evaluation": ClippedSum(values, planned.evaluation, planned.share)}


def _costs(context: RunContext, prepared: Prepared, home: SiteHome) -> dict[str, Event]:
    if context.params.privacy.evaluates != "noised":
        return {}
    from folkmoot.privacy.training import schedule
    from site_tasks.private.train import demand_accounted  # imports this module

    wanted = schedule(context.params, context.contract).evaluation
    if wanted is None:
        return {}
    demand_accounted(prepared, wanted, context, home)
    return {"evaluation": wanted.event}


def counts_of(
    model: Artefact,
    prepared: Prepared,
    context: RunContext,
    home: SiteHome,
    part: Literal["train", "test"] = "test",
) -> Statistics:
    """Counts of :mod:`folkmoot.metrics` for a model on a part of a site's rows.

    Parameters
    ----------
    model : Artefact
        Linear or tree model.
    prepared : Prepared
        The site's rows, for the model's kind.
    context, home
        Run and site.
    part : {"test", "train"}
        Rows to count.

    Returns
    -------
    Statistics
        Exact counts: no epsilon covers them.  O(n · d · K) in chunks for linear models.
    """
    task = context.contract.task
    classes = len(context.contract.classes)
    origin = 0.0
    if context.contract.label.bounds is not None:
        origin = sum(context.contract.label.bounds) / 2
    if model.meta["kind"] == "trees":
        from site_tasks.train_trees import scores

        found = scores(model, prepared, part, context, home)
        y = prepared.labels(part)
        return Statistics(metrics.count(task, y, found, classes, origin=origin))
    from site_tasks.linear_loss import predict
    from site_tasks.scaled import scaled_rows

    w = parameters(model)
    counts = [
        metrics.count(task, y, predict(task, w, x), classes, origin=origin)
        for x, y, _ in scaled_rows(prepared, part, model, context, home.name).chunks()
    ]
    if not counts:  # a site may have training rows only
        counts = [metrics.count(task, [], np.zeros((0, max(1, classes))), classes, origin=origin)]
    return Statistics(counts[0] if len(counts) == 1 else metrics.combine(counts))


def due(params: Params, round: int) -> bool:
    """Whether the model that comes into ``round`` is evaluated there.

    The initial one is only where a gate holds the first round's against it.
    """
    every = params.aggregation.evaluate_every if params.privacy.evaluates == "exact" else 0
    first = 1 if params.aggregation.defence.gated else 2
    return every > 0 and round >= first and (round - 1) % every == 0


def load_model(context: RunContext, key: str, prepared: Prepared) -> tuple[Artefact, str]:
    """Global model of the run and its digest; checked against run and feature space.

    Raises
    ------
    ProtocolError
        ``protocol.missing``, or ``protocol.mismatch`` for another run, round, kind, shape or
        feature space.
    """
    data, found = orders.signed(context, key)
    # One process may serve all sites of a federation: what fits one fits those of its features.
    name = (context.run, key, found, prepared.features.names)
    with _READING:  # sites side by side would each read the same model
        known: tuple[object, Artefact] | None = context.cache.get("model")
        if known is None or known[0] != name:
            known = name, _fitting(data, key, prepared, context)
            context.cache["model"] = known
    return known[1], found


def _fitting(data: bytes, key: str, prepared: Prepared, context: RunContext) -> Artefact:
    model = decode(data, kind="model")
    meta = model.meta
    if (meta.get("federation"), meta.get("run")) != (context.federation, context.run):
        raise ProtocolError(
            "protocol.mismatch",
            f"{key} is the model of another run than {context.run}.",
            "Find out who published it; the site did not train on it.",
        )
    if not isinstance(meta.get("round"), int) or keys.model(meta["round"]) != key:
        raise ProtocolError(
            "protocol.mismatch",
            f"{key} is the model of another round.",
            "Find out who published it; the site did not train on it.",
        )
    if tuple(meta.get("features", ())) != prepared.features.names:
        raise ProtocolError(
            "protocol.mismatch",
            f"{key} has other features than the site's prepared rows.",
            "Check that coordinator and site run the same version of folkmoot.",
        )
    if meta.get("kind") != context.params.model.kind:
        raise _shapeless("coefficients or trees")
    if meta["kind"] == "linear":  # trees are checked where they are read (site_tasks.margins)
        check_shape(model, prepared, context)
    return model


def check_shape(model: Artefact, prepared: Prepared, context: RunContext) -> None:
    """Refuse coefficients of a shape that the features do not give.

    A scaling with gaps would silently hide features; other shapes end in a nameless error.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch``.
    """
    classes = len(context.contract.classes) if context.contract.task == "multiclass" else 1
    d = len(prepared.features)
    if not {"mean", "scale"} <= model.arrays.keys():
        raise _shapeless("mean and scale")
    design = Design.of(model.arrays)
    if not design.fits(d):
        raise _shapeless("design")
    width = design.width
    shapes = {"coef": (classes, width), "intercept": (classes,), "mean": (d,), "scale": (d,)}
    for name, shape in shapes.items():
        array = model.arrays.get(name)
        if array is None or array.dtype != np.float64 or array.shape != shape:
            raise _shapeless(name)
        if not np.isfinite(array).all() or (name == "scale" and (array <= 0).any()):
            raise _shapeless(name)


def _shapeless(name: str) -> ProtocolError:
    return ProtocolError(
        "protocol.mismatch",
        f"The global model has no {name} that fit contract and params.",
        "Check that coordinator and site run the same version of folkmoot; find out who "
        "published the model.",
    )
