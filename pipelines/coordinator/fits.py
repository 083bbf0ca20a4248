"""Whether what a site published is what the plan asked of it.

A signature says who sent an artefact, not that it makes sense.  What does not fit the plan is
refused before it is aggregated or written into a record, and its site left out as one that is late.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from folkmoot import metrics
from folkmoot.agreement import schema_digest
from folkmoot.errors import PrivacyError, ProtocolError
from folkmoot.features import feature_space
from folkmoot.plan import RunContext
from folkmoot.privacy.events import Event, from_dict
from folkmoot.privacy.release import charge, receipt
from folkmoot.privacy.training import charges
from folkmoot.updates import LinearUpdate, Masked, ReleasedUpdate, Statistics, TreeUpdate
from folkmoot.wire import canonical_json
from pipelines.coordinator.private_metrics import noised_fits

__all__ = [
    "check_answers",
    "check_evaluation",
    "check_joined",
    "check_masked",
    "check_statistics",
    "check_sum",
    "check_update",
]

_HEX = re.compile(r"[0-9a-f]{64}")
#: Counts are added in int64 and divided in float64.
_MOST_ROWS = 2**53


def check_update(update: ReleasedUpdate, context: RunContext) -> None:
    """A trained update: of the plan's kind, weight and cost; with counts of the incoming model.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch``, naming the site.
    """
    params = context.params
    sums = params.model.kind == "linear" or params.privacy.clipping == "record"
    kind: type = LinearUpdate if sums else TreeUpdate
    if _summed(context):
        kind = Statistics
    _demand(
        isinstance(update.parts.get("update"), kind), update, "has no update of the plan's kind"
    )
    names = {"update", "evaluation", *({"figures"} if _live(context) else ())}
    _demand(update.parts.keys() <= names, update, "has parts nobody asked for")
    if context.params.aggregation.weighting == "uniform":
        _demand(update.parts["update"].weight == 1.0, update, "claims a weight of its own")
    elif (most := context.params.aggregation.defence.weight_limit) is not None:
        fit = update.parts["update"].weight <= most
        _demand(fit, update, "claims more than aggregation.defence.weight_limit")
    if context.params.privacy.mechanism == "clip":
        size = float(
            np.sqrt(sum(np.square(a).sum() for a in update.parts["update"].arrays.values()))
        )
        bound = context.params.privacy.clip_norm * (1 + 1e-9)
        _demand(size <= bound, update, "is larger than the plan's clip norm")
    _paper(update, context, _costs(context, update.meta["round"]))
    _evaluation(update, context)


def _costs(context: RunContext, round: int) -> dict[str, Event]:
    """What a release of the round must cost; round 0: the final evaluation."""
    if context.params.privacy.clipping == "record":
        return charges(context.params, context.contract, round)
    return charge(context.params.privacy) if round else {}


def check_evaluation(update: ReleasedUpdate, context: RunContext) -> None:
    """Counts of the final model on held-out rows; raises as :func:`check_update`."""
    _demand(update.parts.keys() <= {"evaluation"}, update, "has parts nobody asked for")
    _paper(update, context, _costs(context, 0))
    _evaluation(update, context)


def check_joined(update: ReleasedUpdate, context: RunContext) -> None:
    """A site's word that it takes part in a live session; raises as :func:`check_update`."""
    _demand(update.parts.keys() == {"session"}, update, "has parts nobody asked for")
    steps = _counts(update, "session").get("steps")
    wanted = context.params.model.trees.trees_per_round
    fit = steps is not None and steps.shape == () and int(steps) == wanted
    _demand(bool(fit), update, "joins a session of another length")
    _paper(update, context, {})


def check_statistics(update: ReleasedUpdate, context: RunContext) -> None:
    """Summed statistics of prepared rows; raises as :func:`check_update`."""
    _same_schema(update, context)
    _demand(update.parts.keys() <= {"statistics"}, update, "has parts nobody asked for")
    _paper(update, context, {})
    _statistics(update, context)


def _same_schema(update: ReleasedUpdate, context: RunContext) -> None:
    if context.params.anonymisation.settled is not None:
        own = schema_digest(context.contract, context.params.anonymisation)
        _demand(update.meta.get("schema") == own, update, "was prepared under another schema")


def _statistics(update: ReleasedUpdate, context: RunContext) -> None:
    if "statistics" in update.parts:
        arrays = _counts(update, "statistics")
        shapes = _shapes(context)
        known = arrays.keys() >= shapes.keys() and arrays.keys() <= {*shapes, "weight"}
        fit = all(array.shape == shapes.get(name, ()) for name, array in arrays.items())
        _demand(known and fit, update, "has statistics of another shape than the contract gives")


def check_masked(update: ReleasedUpdate, context: RunContext) -> None:
    """A release under masks: its names and cost, which masks do not hide; raises as `check_update`."""
    task = str(update.meta.get("step", "")).split("/")[1:2]
    names, costs = {"statistics"}, dict[str, Event]()
    if task == ["train"]:
        names, costs = {"update", "evaluation"}, dict(_costs(context, update.meta["round"]))
    elif task == ["levels"]:
        names = {"agreement"}
    elif task == ["evaluate"]:
        names, costs = {"evaluation"}, dict(_costs(context, 0))
    elif context.params.statistics.active:
        names, costs = asked_of(update, context)
    else:
        _same_schema(update, context)
    masked = all(isinstance(part, Masked) for part in update.parts.values())
    _demand(masked and update.parts.keys() <= names, update, "is not the masked release asked for")
    _demand(task != ["train"] or "update" in update.parts, update, "has no update")
    secure = update.meta.get("secure")
    fit = isinstance(secure, dict) and secure.keys() == {"layout", "view"}
    _demand(fit, update, "does not say how its masked vector is laid out")
    _paper(update, context, costs)


def asked_of(update: ReleasedUpdate, context: RunContext) -> tuple[set[str], dict[str, Event]]:
    """Parts and cost of a release of a run of statistics, by its step."""
    from folkmoot.statistics import noise
    from folkmoot.statistics.questions import parts_of

    params, contract, round = context.params, context.contract, int(update.meta["round"])
    task = str(update.meta.get("step", "")).split("/")[1]
    if task == "statistics":
        names = {part.name for part in parts_of(params, contract, round)}
        return names, noise.charges(params, contract, round)
    if task == "blind":
        event = noise.overlap_event(params)
        names = {name for name in update.parts if name.startswith("overlap.")}
        return names, {} if event is None else dict.fromkeys(names, event)
    if task == "share":
        return {f"share.{site}" for site in params.statistics.compute}, {}
    return set(), {}


def check_answers(update: ReleasedUpdate, context: RunContext) -> None:
    """A release of a run of statistics that is not masked; raises as :func:`check_update`."""
    names, costs = asked_of(update, context)
    _demand(update.parts.keys() == names, update, "has other parts than were asked for")
    whole = all(isinstance(part, Statistics) for part in update.parts.values())
    _demand(whole, update, "has a part of another kind than was asked for")
    _paper(update, context, costs)


def check_sum(update: ReleasedUpdate, context: RunContext) -> None:
    """An opened sum: its parts have the shapes of the plan; raises as :func:`check_update`."""
    if "update" in update.parts:
        kind: type = Statistics if _summed(context) else LinearUpdate
        fit = isinstance(update.parts["update"], kind)
        _demand(fit, update, "has no update of the plan's kind")
    _evaluation(update, context)
    _statistics(update, context)


def _summed(context: RunContext) -> bool:
    """Whether updates are histograms, which are sums."""
    model = context.params.model
    return model.kind == "trees" and model.trees.strategy == "summed_histograms"


def _live(context: RunContext) -> bool:
    """Whether updates are trees of a session, with their figures (``aggregate.live`` checks them)."""
    model = context.params.model
    return model.kind == "trees" and model.trees.strategy == "xgboost_federated"


def _shapes(context: RunContext) -> dict[str, tuple[int, ...]]:
    contract, params = context.contract, context.params
    d = len(feature_space(contract, params.anonymisation, params.model.kind))
    label: dict[str, tuple[int, ...]] = {"label_sum": (), "label_square": ()}
    if contract.classes:
        label = {"class_counts": (len(contract.classes),)}
    return {"rows": (), "count": (d,), "sum": (d,), "square": (d,), **label}


def _evaluation(update: ReleasedUpdate, context: RunContext) -> None:
    if context.params.privacy.clipping == "record":
        noised = update.parts.get("evaluation")
        _demand(noised is None or noised_fits(noised, context.contract), update, "has odd counts")
    elif "evaluation" in update.parts:
        exact = context.params.privacy.evaluates == "exact"
        _demand(exact, update, "has counts that the plan keeps at the sites")
        arrays = _counts(update, "evaluation")
        fit = metrics.fits(context.contract.task, arrays, len(context.contract.classes))
        _demand(fit, update, "has counts of another shape than the contract gives")


def _counts(update: ReleasedUpdate, name: str) -> Any:
    part = update.parts[name]
    _demand(isinstance(part, Statistics), update, f"has a part {name} of another kind")
    for array in part.arrays.values():
        if array.dtype.kind != "f":
            whole = array.dtype == np.int64 and ((array >= 0) & (array <= _MOST_ROWS)).all()
            _demand(bool(whole), update, "counts rows that cannot be")
    return part.arrays


def _paper(update: ReleasedUpdate, context: RunContext, costs: Mapping[str, Event]) -> None:
    """The receipt must be the one that the plan's privacy gives: it enters records and MLflow."""
    privacy, meta = context.params.privacy, update.meta
    try:
        identity, found = meta["release_id"], meta["receipt"]
        events = {name: from_dict(event) for name, event in found["events"].items()}
        delta = found["delta"] if costs or found["delta"] is not None else privacy.delta
        values = {name: event.to_dict() for name, event in events.items()}
        expected = receipt(identity, privacy, values, min(delta, privacy.delta))
        charged = {name: event for name, event in events.items() if event.charged}
        fit = (
            _HEX.fullmatch(meta["dataset"]) is not None
            and _HEX.fullmatch(identity) is not None
            and events.keys() == update.parts.keys()
            and charged == dict(costs)
            and delta > 0
            and canonical_json(expected) == canonical_json(found)
        )
    except (KeyError, TypeError, ValueError, AttributeError, PrivacyError):
        fit = False
    _demand(fit, update, "has a receipt that does not follow from the plan")


def _demand(holds: bool, update: ReleasedUpdate, what: str) -> None:
    if not holds:
        raise ProtocolError(
            "protocol.mismatch",
            f"The {update.meta.get('step', 'update')} artefact of site {update.site} {what}.",
            "Check that the site runs the same version of folkmoot, params and contract.",
            site=update.site,
        )
