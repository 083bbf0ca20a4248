"""Round plans: params and contract in, :class:`folkmoot.plan.RoundPlan` out.  Pure data, no code."""

from __future__ import annotations

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError
from folkmoot.generalisation import check_levels
from folkmoot.params import Params
from folkmoot.plan import RoundPlan
from folkmoot.privacy.training import schedule
from folkmoot.statistics.noise import share_of
from folkmoot.statistics.questions import check_questions
from folkmoot.trees.options import check as check_histograms
from pipelines.plans import linear, statistics, trees
from pipelines.plans.stages import final, prepare

__all__ = ["plan_of"]


def plan_of(params: Params, contract: Contract) -> RoundPlan:
    """Make the plan of a training; O(sites x rounds).

    Parameters
    ----------
    params : Params
        Typed ``params.yaml``.
    contract : Contract
        The federation's data contract.

    Returns
    -------
    RoundPlan
        Prepare, initialise, the rounds up to their maximum, evaluate, conclude.

    Raises
    ------
    ConfigError
        ``config.invalid`` where params and contract do not fit each other.
    PrivacyError
        ``privacy.small-data`` where the plan's noise would drown the answer.
    """
    if params.statistics.active:
        return _statistics(params, contract)
    _fit(params, contract)
    rounds = {"linear": linear.rounds, "trees": trees.rounds}[params.model.kind]
    steps = (*prepare(params), *rounds(params), *final(params))
    return RoundPlan(
        federation=params.federation.name,
        kind=params.model.kind,
        rounds=params.model.rounds,
        sites=params.federation.members,
        steps=steps,
    )


def _statistics(params: Params, contract: Contract) -> RoundPlan:
    check_questions(params, contract)
    if params.privacy.private and params.statistics.summed:
        share_of(params, contract)  # refuses shares whose sum would have another law than planned
    steps = (*statistics.prepare(params), *statistics.rounds(params), *statistics.final(params))
    return RoundPlan(
        federation=params.federation.name,
        kind=params.kind,
        rounds=params.rounds,
        sites=params.federation.members,
        steps=steps,
    )


def _fit(params: Params, contract: Contract) -> None:
    check_levels(contract, params.anonymisation)
    check_histograms(contract, params)
    if params.privacy.clipping == "record":
        schedule(params, contract)  # refuses what noise would drown, before anything is spent
    if params.model.chosen.strategy == "local_forests" and contract.task == "regression":
        raise ConfigError(
            "config.invalid",
            "model.trees.strategy local_forests votes about classes, and the label is a number.",
            "Use strategy private_trees, or model.kind linear with strategy private.",
        )
    linear_dp = params.model.kind == "linear" and params.privacy.mechanism == "diffprivlib"
    if linear_dp and contract.task == "multiclass":
        raise ConfigError(
            "config.invalid",
            "privacy.mechanism diffprivlib trains binary and regression models only.",
            "Use mechanism gaussian with a gradient strategy for several classes.",
        )
