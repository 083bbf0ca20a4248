"""Settings that histogram trees cannot honour are refused, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError
from folkmoot.params import Params, parse_params
from pipelines.plans import plan_of
from tests.trees.conftest import contract_of


def params(**trees: Any) -> Params:
    trees = {"strategy": "summed_histograms", **trees}
    return parse_params({"model": {"kind": "trees", "trees": trees}})


@pytest.mark.parametrize(
    ("trees", "message"),
    [
        ({"trees_per_round": 2}, "trees_per_round"),
        ({"early_stopping": {"tolerance": 0.1}}, "early_stopping_rounds"),
        ({"learning_rates": [0.1], "rounds": 2}, "learning_rates"),
        ({"objective": "survival:cox"}, "count:poisson .piecewise exponential."),
        ({"objective": "survival:aft"}, "survival:aft is not supported"),
        ({"objective": "rank:ndcg"}, "objective"),
        ({"max_bin": 5000}, "max_bin"),
        ({"grow_policy": "lossguide"}, "max_depth"),
        ({"max_leaves": 31}, "max_depth"),
        ({"learning_rate": 0.1}, "learning_rate is eta"),
        ({"scale_pos_weight": 3.0}, "role weight"),
        ({"strategy": "bagging", "max_delta_step": 1.0}, "summed_histograms"),
        ({"strategy": "cyclic", "monotone_constraints": {"age": 1}}, "summed_histograms"),
    ],
)
def test_params_refuse(trees: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        params(**trees)


def test_whole_trees_are_still_refused_under_masks() -> None:
    with pytest.raises(ConfigError, match="summed_histograms"):
        parse_params({"model": {"kind": "trees"}, "aggregation": {"protection": "masks"}})


def test_exact_sums_do_not_leave_under_differential_privacy() -> None:
    values = {
        "data": {"scaling": "bounds"},
        "model": {"kind": "trees", "trees": {"strategy": "summed_histograms"}},
        "privacy": {"mechanism": "gaussian"},
        "aggregation": {"weighting": "uniform"},
    }
    with pytest.raises(ConfigError, match="privacy"):
        parse_params(values)


def _weights(contract: dict[str, Any]) -> None:
    contract["columns"].append({"name": "w", "role": "weight"})


def _from_below(contract: dict[str, Any]) -> None:
    contract["task"] = "regression"
    contract["columns"][-1] = {"name": "y", "role": "label", "bounds": [-1.0, 9.0]}


@pytest.mark.parametrize(
    ("trees", "change", "message"),
    [
        ({"objective": "multi:softprob"}, None, "does not fit the contract's task"),
        ({"objective": "count:poisson"}, _from_below, "begin below"),
        ({"monotone_constraints": {"absent": 1}}, None, "absent"),
        ({"interaction_constraints": [["age", "absent"]]}, None, "absent"),
        ({}, _weights, "public bounds"),
    ],
)
def test_plans_refuse(
    trees: dict[str, Any], change: Callable[[dict[str, Any]], None] | None, message: str
) -> None:
    values = contract_of("binary").model_dump(mode="json")
    if change is not None:
        change(values)
    with pytest.raises(ConfigError, match=message):
        plan_of(params(**trees), Contract.model_validate(values))


def test_a_plan_has_an_exchange_per_level() -> None:
    contract = contract_of("binary")
    sketched = plan_of(params(rounds=3, max_depth=4, sketch_exchanges=1), contract)
    public = plan_of(params(rounds=3, max_depth=4, bin_edges="bounds", spare_exchanges=2), contract)
    assert (sketched.rounds, public.rounds) == (1 + 12, 12 + 2)
