"""What params and contract say about histogram trees: rules, columns, steps; and what does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from folkmoot.errors import ConfigError
from folkmoot.features import FeatureSpace, feature_space
from folkmoot.generalisation import bounds_of
from folkmoot.params.boosting import HISTOGRAMS

if TYPE_CHECKING:
    from folkmoot.contract import Contract
    from folkmoot.params import Params
    from folkmoot.plan import RunContext
    from folkmoot.trees.cuts import Cuts
    from folkmoot.trees.grow import Columns
    from folkmoot.trees.histograms import Grid
    from folkmoot.trees.split import Rules
    from folkmoot.wire import Artefact

__all__ = [
    "SUMMED",
    "bound_of_weights",
    "bounds_of_derivatives",
    "check",
    "columns_of",
    "cuts_of",
    "eta_of",
    "grid_of",
    "max_delta_step",
    "objective_of",
    "rules_of",
]

#: Name of the strategy.
SUMMED = "summed_histograms"
_OBJECTIVES = {
    "binary": ("binary:logistic",),
    "multiclass": ("multi:softprob",),
    "regression": ("reg:squarederror", "count:poisson"),
}


def objective_of(contract: Contract, params: Params) -> str:
    """XGBoost's name of what is minimised."""
    return params.model.trees.objective or _OBJECTIVES[contract.task][0]


def max_delta_step(contract: Contract, params: Params) -> float:
    """As XGBoost has it: 0.7 for Poisson unless it is set, else 0."""
    found = params.model.trees.max_delta_step
    if found is not None:
        return found
    return 0.7 if objective_of(contract, params) == "count:poisson" else 0.0


def eta_of(params: Params, step: int) -> float:
    """Learning rate of a boosting step, from 0."""
    rates = params.model.trees.learning_rates
    return rates[step] if rates else params.model.trees.eta


def rules_of(contract: Contract, params: Params) -> Rules:
    """Regularisation of splits."""
    from folkmoot.trees.split import Rules

    trees = params.model.trees
    return Rules(
        reg_lambda=trees.reg_lambda,
        reg_alpha=trees.reg_alpha,
        gamma=trees.gamma,
        min_child_weight=trees.min_child_weight,
        max_delta_step=max_delta_step(contract, params),
        max_cat_to_onehot=trees.max_cat_to_onehot,
        max_cat_threshold=trees.max_cat_threshold,
        constrained=bool(trees.monotone_constraints),  # as XGBoost: named is enough
    )


def cuts_of(context: RunContext, model: Artefact) -> Cuts:
    """A model's bin edges, checked; the same object for as long as models bring the same ones.

    Raises
    ------
    ProtocolError
        ``protocol.format`` for edges that do not fit.
    """
    from folkmoot.trees.cuts import Cuts

    features = len(model.meta["features"])
    kept: Cuts | None = context.cache.get("cuts")
    if kept is None or len(kept.lowest) != features or not kept.same(model.arrays):
        kept = context.cache["cuts"] = Cuts.from_arrays(model.arrays, features)
    return kept


def columns_of(contract: Contract, params: Params) -> Columns:
    """Which features nodes may use."""
    from folkmoot.trees.grow import Columns

    trees = params.model.trees
    names = feature_space(contract, params.anonymisation, "trees").names
    return Columns(
        monotone=tuple(trees.monotone_constraints.get(name, 0) for name in names),
        interactions=tuple(
            frozenset(names.index(name) for name in group)
            for group in trees.interaction_constraints
        ),
        bytree=trees.colsample_bytree,
        bylevel=trees.colsample_bylevel,
        bynode=trees.colsample_bynode,
        seed=trees.seed,
    )


def bound_of_weights(contract: Contract) -> float:
    """Largest sample weight that the contract permits; 1 where it has no weight column."""
    columns = contract.with_role("weight")
    if not columns:
        return 1.0
    return float(max(columns[0].bounds or (0.0, 0.0)))


def bounds_of_derivatives(contract: Contract, params: Params) -> tuple[float, float]:
    """Public bounds of a row's gradient and Hessian.

    Losses of classes bound them by themselves.  Of numbers a row's error is taken to be at most
    four times the label's range; a site whose error is larger refuses the round.
    """
    weight = bound_of_weights(contract)
    objective = objective_of(contract, params)
    if objective == "binary:logistic":
        return weight, weight / 4
    if objective == "multi:softprob":
        return weight, weight / 2
    lower, upper = contract.label.bounds or (0.0, 1.0)
    if objective == "reg:squarederror":
        return 4 * (upper - lower) * weight, weight
    grown = float(np.exp(max_delta_step(contract, params)))
    return 4 * upper * weight, 4 * upper * grown * weight


def grid_of(context: RunContext) -> Grid:
    """Steps of a run's sums, worked out once; raises as :meth:`Grid.fit`."""
    from folkmoot.trees.histograms import Grid

    found: Grid | None = context.cache.get("grid")
    if found is None:
        params = context.params
        gradient, hessian = bounds_of_derivatives(context.contract, params)
        sites = len(params.federation.members)
        found = Grid.fit(sites, params.aggregation.rows_limit, gradient, hessian)
        context.cache["grid"] = found
    return found


def check(contract: Contract, params: Params) -> None:
    """Refuse what histogram trees cannot do with this contract.

    Raises
    ------
    ConfigError
        ``config.invalid``, naming the setting.
    """
    trees = params.model.trees
    if params.model.kind != "trees" or trees.strategy not in HISTOGRAMS:
        return
    space = feature_space(contract, params.anonymisation, "trees")
    objective = objective_of(contract, params)
    if objective not in _OBJECTIVES[contract.task]:
        raise _invalid(
            f"model.trees.objective {objective} does not fit the contract's task {contract.task}",
            f"Set it to {' or '.join(_OBJECTIVES[contract.task])}, or to null.",
        )
    _known(space, trees.monotone_constraints, "monotone_constraints")
    for group in trees.interaction_constraints:
        _known(space, group, "interaction_constraints")
    if objective == "count:poisson" and bounds_of(contract.label)[0] < 0:
        raise _invalid(
            "model.trees.objective count:poisson counts from 0, and the label's bounds begin below",
            "Raise the lower bound of the label, or set the objective to reg:squarederror.",
        )
    weights = contract.with_role("weight")
    if weights and (weights[0].bounds is None or weights[0].bounds[0] < 0):
        raise _invalid(
            f"Column {weights[0].name} weighs rows, and has no public bounds from 0",
            "Give it bounds in the contract: they decide the resolution of the sums.",
        )
    if trees.early_stopping_rounds is not None and not params.aggregation.evaluate_every:
        raise _invalid(
            "model.trees.early_stopping_rounds needs evaluations of held-out rows",
            "Set aggregation.evaluate_every to 1.",
        )
    room = 62 - len(params.federation.members).bit_length() - 25
    wide = max(bounds_of_derivatives(contract, params)) > 0
    if params.aggregation.rows_limit > 2**room or not wide:
        raise _invalid(
            "aggregation.rows_limit leaves no room for exact sums",
            "Set it to the most rows that a site has.",
        )


def _known(space: FeatureSpace, names: object, key: str) -> None:
    unknown = sorted(set(names) - set(space.names))  # type: ignore[call-overload]
    if unknown:
        raise _invalid(
            f"model.trees.{key} names no features: {', '.join(unknown)}",
            f"The features are {', '.join(space.names)}.",
        )


def _invalid(message: str, remedy: str) -> ConfigError:
    return ConfigError("config.invalid", message + ".", remedy)
