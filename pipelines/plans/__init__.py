"""Round plans: params and contract in, :class:`folkmoot.plan.RoundPlan` out.  Pure data, no code."""

from __future__ import annotations

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError
from folkmoot.params import Params
from folkmoot.plan import RoundPlan
from pipelines.plans import linear, trees
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
    """
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


def _fit(params: Params, contract: Contract) -> None:
    quasi = {column.name: column for column in contract.with_role("quasi_identifier")}
    for name, level in params.anonymisation.levels.items():
        hierarchy = quasi[name].hierarchy if name in quasi else None
        depth = max(len(hierarchy.widths), len(hierarchy.levels)) if hierarchy else 0
        if name not in quasi or level > depth:
            what = (
                f"has {depth} levels" if name in quasi else "is no quasi-identifier of the contract"
            )
            raise ConfigError(
                "config.invalid",
                f"anonymisation.levels.{name}: the column {what}.",
                f"Mend params.yaml or contract {contract.name}.",
            )
    if params.privacy.mechanism == "diffprivlib" and contract.task == "multiclass":
        raise ConfigError(
            "config.invalid",
            "privacy.mechanism diffprivlib trains binary and regression models only.",
            "Use mechanism gaussian with a gradient strategy for several classes.",
        )
