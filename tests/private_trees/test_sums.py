"""What one record adds to the sums of private trees is bounded, whatever the model says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, PrivacyError
from folkmoot.params import parse_params
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.training import schedule
from folkmoot.trees.private import CLIP, LEAF_EXPONENT, step_length
from folkmoot.trees.private_splits import Grid, draw_round
from site_tasks.private.trees import clipped_derivatives, label_sum, leaf_sum

from .conftest import contract_of, rows_of, settings

LIMIT = CLIP * 2.0**LEAF_EXPONENT


@given(
    margin=st.lists(st.floats(width=32, allow_nan=True), min_size=6, max_size=6),
    label=st.integers(0, 1),
)
def test_no_record_is_larger_than_the_clip_norm(margin: list[float], label: int) -> None:
    own = np.array(margin, np.float32)
    binary = clipped_derivatives(own, np.full(6, label), contract_of("binary"))
    several = clipped_derivatives(own.reshape(2, 3), np.full(2, label), contract_of("multiclass"))
    number = clipped_derivatives(own, own[::-1], contract_of("regression"))
    for steps in (binary, several, number):
        assert np.array_equal(steps, np.trunc(steps))
        assert (np.square(steps).sum(axis=1) <= LIMIT**2).all()
    assert binary.shape == (6, 2)
    assert several.shape == (2, 6)


def test_confident_records_reach_the_norm_and_no_more() -> None:
    """Clipping has work to do at all: the bound is met, not undercut by a factor."""
    steps = clipped_derivatives(np.array([9.0, -9.0]), np.array([0, 1]), contract_of("binary"))
    assert (np.hypot(*steps.T) > 0.999 * LIMIT).all()
    assert (np.sign(steps[:, 0]) == [1, -1]).all()


def test_the_golden_ratio_bounds_gradient_and_hessian_together() -> None:
    g = np.linspace(0, 1, 100_001)
    golden = (1 + math.sqrt(5)) / 2
    for c, holds in ((golden**2.5, True), (golden**2.5 * 1.001, False)):
        assert bool((g**2 + (c * g * (1 - g)) ** 2 <= 1 + 1e-9).all()) == holds


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_one_more_record_moves_a_round_by_no_more_than_the_plan_charges(task: str) -> None:
    params, contract = settings("model.trees.features_per_tree=2"), contract_of(task)
    planned = schedule(params, contract)
    trees = draw_round(Grid.of(contract, params), params, 2)
    rng = np.random.default_rng(1)
    x = rows_of(60, 2).astype(np.float32)
    y = rng.integers(0, 2, 60) if task != "regression" else rng.uniform(-80, 80, 60)
    margin = 5 * rng.normal(size=(60, 3) if task == "multiclass" else 60).astype(np.float32)
    whole = leaf_sum(trees, x, y, margin, contract)
    release = planned.of(2)
    for i in range(0, 60, 7):
        rest = np.arange(60) != i
        moved = whole - leaf_sum(trees, x[rest], y[rest], margin[rest], contract)
        size = float(np.sqrt(np.square(moved.astype(np.float64)).sum()))
        assert 0 < size <= release.sensitivity * 2.0**release.exponent
        labels = label_sum(y, contract) - label_sum(y[rest], contract)
        counted = planned.of(1)
        most = counted.sensitivity * 2.0**counted.exponent
        assert float(np.sqrt(np.square(labels.astype(np.float64)).sum())) <= most
    # Leaf by leaf, what a slow sum over records gives.
    steps = clipped_derivatives(margin, y, contract)
    first = trees[0].places(x)
    for leaf in range(len(trees[0].leaves)):
        assert whole[leaf] == steps[first == leaf, 0].sum()


def test_the_plan_spends_its_budget_and_no_more() -> None:
    for overrides in ((), ("privacy.evaluation=noised",), ("privacy.noise=coordinator",)):
        params = settings(*overrides)
        planned = schedule(params, contract_of("binary"))
        releases = [*planned.releases, *([planned.evaluation] if planned.evaluation else [])]
        events = [release.event for release in releases]
        assert len(planned.releases) == 5
        assert 7.99 < epsilon(events, params.privacy.delta)[0] <= 8.0
    more = schedule(settings("privacy.relation=replace-one"), contract_of("binary"))
    one = schedule(settings(), contract_of("binary"))
    assert more.of(2).sensitivity == 2 * one.of(2).sensitivity == 2 * CLIP * 2


def test_a_persons_rows_multiply_the_noise() -> None:
    """The existing bounding of contributions: few rows of each person, and noise for all of them."""
    params = settings(
        "privacy.unit=person", "privacy.rows_per_person=3", "anonymisation.identifiers=pseudonymise"
    )
    values = contract_of("binary").model_dump(mode="json")
    values["columns"].append({"name": "patient", "role": "direct_identifier", "type": "text"})
    contract = Contract.model_validate(values)
    mine, plain = schedule(params, contract), schedule(settings(), contract_of("binary"))
    for round in (1, 2):
        assert mine.of(round).sensitivity == 3 * plain.of(round).sensitivity
        assert mine.of(round).unit == "person"


def test_steps_of_a_round_do_not_overshoot() -> None:
    assert step_length(settings("model.trees.trees_per_round=1", "model.trees.eta=0.5")) == 0.5
    assert step_length(settings("model.trees.trees_per_round=10", "model.trees.eta=0.5")) == 0.2


@pytest.mark.parametrize("strategy", ["bagging", "cyclic", "summed_histograms"])
def test_trees_along_the_rows_are_refused_under_privacy_with_the_reason(strategy: str) -> None:
    values = settings().model_dump(mode="json")
    values["model"]["trees"] = {"strategy": strategy}
    sitewise = {"mechanism": "gaussian", "noise_multiplier": 8.0}
    for privacy in (values["privacy"], sitewise, {"mechanism": "diffprivlib", "epsilon": 1.0}):
        with pytest.raises(ConfigError, match=r"no bounded sensitivity.*private_trees"):
            parse_params({**values, "privacy": privacy})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.trees.subsample=0.5",), "subsample has no meaning for strategy private_trees"),
        (("privacy.clipping=site", "privacy.noise_multiplier=9"), "go together"),
        (("privacy.noise=distributed",), "needs secure sums"),
        (("model.trees.strategy=local_forests", "model.trees.rounds=1"), "go together"),
    ],
)
def test_settings_that_promise_what_they_do_not_keep_are_refused(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(*overrides)


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (("privacy.epsilon=0.01",), "privacy.small-data", "times its Hessian"),
        (("model.trees.rounds=1",), "privacy.mechanism", "grows trees from round 2"),
        (("privacy.method=gradient",), "privacy.mechanism", "gradients of linear models"),
    ],
)
def test_plans_that_would_be_noise_are_refused_before_anything_is_spent(
    overrides: tuple[str, ...], code: str, message: str
) -> None:
    with pytest.raises(PrivacyError, match=message) as caught:
        schedule(settings(*overrides), contract_of("binary"))
    assert caught.value.code == code
