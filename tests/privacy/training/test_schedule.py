"""One budget over all releases; refusals come before anything is spent."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, PrivacyError
from folkmoot.params import Params, parse_params
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.release import planned
from folkmoot.privacy.training import charges, schedule
from pipelines.plans import plan_of
from site_tasks.encode import held_out_by_content


def contract(columns: int, task: str = "binary") -> Contract:
    inputs: list[dict[str, Any]] = [{"name": f"x{i}", "bounds": [-1, 1]} for i in range(columns)]
    label: dict[str, Any] = {"name": "y", "role": "label", "bounds": [-1, 1]}
    if task != "regression":
        names = ["no", "yes", "maybe"][: 3 if task == "multiclass" else 2]
        label = {"name": "y", "role": "label", "type": "category", "categories": names}
    return Contract.model_validate({"name": "c", "task": task, "columns": [*inputs, label]})


def params(*overrides: str) -> Params:
    return parse_params(
        {
            "data": {"scaling": "bounds", "holdout": {"by": "content"}},
            "model": {"linear": {"strategy": "private", "rounds": 12}},
            "privacy": {
                "mechanism": "gaussian",
                "clipping": "record",
                "epsilon": 1.0,
                "rows": 20_000,
            },
            "aggregation": {"weighting": "uniform", "evaluate_every": 0},
        },
        overrides,
    )


@pytest.mark.parametrize("budget", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(
    ("columns", "task", "rounds"),
    [(10, "binary", 12), (4, "multiclass", 6), (5, "regression", 1), (30, "binary", 2)],
)
@pytest.mark.parametrize("evaluation", ["none", "noised"])
def test_all_releases_together_keep_the_budget_and_use_it(
    budget: float, columns: int, task: str, rounds: int, evaluation: str
) -> None:
    settings = params(
        f"privacy.epsilon={budget}",
        f"model.linear.rounds={rounds}",
        f"privacy.evaluation={evaluation}",
        "privacy.rows=90000",
        "privacy.delta=1e-6",
    )
    agreed = contract(columns, task)
    run = schedule(settings, agreed)
    events = [e for r in range(1, run.rounds + 1) for e in charges(settings, agreed, r).values()]
    events += charges(settings, agreed, 0).values()
    assert len(events) == run.rounds + (evaluation == "noised")
    spent, _ = epsilon(events, 1e-6)
    assert budget * 0.999 < spent <= budget
    assert epsilon(planned(settings, agreed), 1e-6)[0] == pytest.approx(spent)


def test_the_planner_chooses_by_rows_columns_and_epsilon_and_says_why() -> None:
    many, few = schedule(params(), contract(20)), None
    assert many.method == "newton"
    assert [r.kind for r in many.releases[:3]] == [
        "histogram",
        "gram",
        "gradient",
    ]
    few = schedule(params("privacy.rows=400"), contract(20))
    assert few.method == "gradient"
    assert few.rounds < 12
    assert schedule(params("model.linear.rounds=1"), contract(5, "regression")).method == "moments"
    assert "20000 rows" in many.why
    assert "400 rows" in few.why
    assert schedule(params("privacy.rows=400", "privacy.epsilon=40"), contract(20)).method == (
        "newton"
    )


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_small_data_is_refused_with_what_would_do(task: str) -> None:
    agreed = contract(20, task)
    small = params("privacy.rows=20", "privacy.epsilon=0.1")
    with pytest.raises(PrivacyError, match="drown") as caught:
        plan_of(small, agreed)
    assert caught.value.code == "privacy.small-data"
    rows, budget = re.findall(r"about (\d+) rows, or an epsilon of ([\d.e+]+)", str(caught.value))[
        0
    ]
    plan_of(params(f"privacy.rows={rows}", "privacy.epsilon=0.1"), agreed)
    plan_of(params("privacy.rows=20", f"privacy.epsilon={float(budget) * 1.02}"), agreed)
    with pytest.raises(PrivacyError, match="drown"):
        plan_of(params(f"privacy.rows={int(rows) // 2}", "privacy.epsilon=0.1"), agreed)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("privacy.epsilon=0", "epsilon"),
        ("privacy.epsilon=.inf", "epsilon"),
        ("privacy.epsilon=.nan", "epsilon"),
        ("privacy.epsilon=null", "needs an epsilon"),
        ("privacy.delta=0.01", "1/rows"),
        ("privacy.rows=null", "rows"),
        ("privacy.rows=0", "rows"),
        ("privacy.noise_multiplier=1", "noise_multiplier"),
        ("privacy.evaluation=exact", "not covered by epsilon"),
        ("privacy.noise=distributed", "secure sums"),
        ("privacy.clipping=site", "noise_multiplier"),
        ("model.linear.strategy=fedavg", "go together"),
        ("aggregation.weighting=rows", "uniform"),
        ("data.scaling=federation", "scaling"),
        ("privacy.simulate_sums=true", "distributed"),
    ],
)
def test_what_the_plan_could_not_keep_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        params(override)


def test_a_split_that_moves_other_rows_is_refused_under_add_or_remove() -> None:
    by_position = "data.holdout.by=position"
    with pytest.raises(ConfigError, match="deals all later rows anew"):
        plan_of(params(by_position), contract(5))
    plan_of(params(by_position, "privacy.relation=replace-one"), contract(5))
    columns = [c.model_dump() for c in contract(5).columns]
    names = {"name": "split", "role": "split", "type": "category", "categories": ["train", "test"]}
    plan_of(
        params(by_position),
        Contract.model_validate({"name": "c", "task": "binary", "columns": [*columns, names]}),
    )


def test_no_row_moves_another_to_the_held_out_ones() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((4000, 5)), rng.integers(0, 2, 4000)
    rows[::9, 1] = np.nan
    found = held_out_by_content(rows, labels, 0.3, 7)
    assert found.mean() == pytest.approx(0.3, abs=0.03)
    without = held_out_by_content(rows[1:], labels[1:], 0.3, 7)
    assert (without == found[1:]).all()
    assert (held_out_by_content(rows, labels, 0.3, 8) != found).any()
    assert 0.15 < np.mean(found != held_out_by_content(rows, 1 - labels, 0.3, 7)) < 0.6


def test_methods_and_tasks_must_fit() -> None:
    for overrides, agreed in (
        (("privacy.method=moments",), contract(5)),
        (("privacy.method=newton",), contract(5, "regression")),
        (("privacy.method=newton", "model.linear.rounds=2"), contract(5)),
        (("model.linear.basis=additive", "privacy.method=gradient"), contract(5)),
    ):
        with pytest.raises(PrivacyError) as caught:
            schedule(params(*overrides), agreed)
        assert caught.value.code == "privacy.mechanism"


def test_replacing_costs_twice_the_noise_of_adding() -> None:
    one = schedule(params(), contract(5)).of(1)
    other = schedule(params("privacy.relation=replace-one"), contract(5)).of(1)
    assert other.deviation == pytest.approx(2 * one.deviation)
    assert other.event.to_dict()["relation"] == "replace-one"


def test_suppression_multiplies_the_sensitivity() -> None:
    known, *others = contract(5).columns
    known = known.model_copy(update={"role": "quasi_identifier"})
    found = contract(5).model_copy(update={"columns": [known, *others]})
    one = schedule(params(), found).of(1)
    other = schedule(params("anonymisation.k=3", "privacy.epsilon=3"), found).of(1)
    assert other.sensitivity == pytest.approx(3 * one.sensitivity)


def test_shares_of_sites_make_up_for_dropouts() -> None:
    distributed = ("privacy.noise=distributed", "privacy.simulate_sums=true")
    whole = schedule(params(*distributed), contract(5))
    assert whole.share == pytest.approx(0.5)  # four sites: 4 x 0.25 of the variance
    lost = schedule(params(*distributed, "privacy.dropouts=1"), contract(5))
    assert 3 * lost.share**2 == pytest.approx(1.0)
    assert schedule(params(), contract(5)).share == 1.0
