"""Runs under masks: equal to plain runs on the grid bit for bit, whoever is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import ConfigError
from folkmoot.params import parse_params
from folkmoot.plan import keys
from folkmoot.secure import recover
from folkmoot.wire import Artefact, decode
from pipelines.hosts import embedded
from pipelines.hosts.execute import execute
from site_tasks.home import SiteHome
from site_tasks.secure import conceal
from site_tasks.settings import save_settings
from tests.conftest import signed_anew
from tests.secure.trial import BASE, SITES, Trial, model_of, settings


@pytest.mark.parametrize("strategy", ["scaffold", "newton"])
def test_a_masked_run_equals_the_run_without_masks_bit_for_bit(
    strategy: str, workspace_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = strategy == "scaffold"  # every weight one, every value clipped: 32 bits are enough
    more: dict[str, Any] = {"privacy": {"mechanism": "clip", "clip_norm": 0.5}} if narrow else {}
    params = settings(strategy, aggregation={"weighting": "uniform" if narrow else "rows"}, **more)
    masked = workspace_of(params, "masked")
    one = embedded.run(params, run="r", workspace=masked)
    with monkeypatch.context() as patch:
        patch.setattr(conceal, "add_masks", lambda vector, add, subtract: None)
        patch.setattr(recover, "unmask", lambda total, add, subtract, threads=1: None)
        grid = workspace_of(params, "grid")
        other = embedded.run(params, run="r", workspace=grid)
    folder = masked / "exchange" / "demo" / "runs" / "r"
    upload = decode((folder / keys.update(1, "site-a")).read_bytes()[:-84], kind="update").arrays
    assert set(upload) == ({"masked", "narrow"} if narrow else {"masked"})
    if narrow:  # delta and control: four bytes a parameter
        coef = model_of(masked, one).arrays["coef"]
        assert upload["narrow"].nbytes == 4 * 2 * (coef.size + 1)
    for name, array in model_of(masked, one).arrays.items():
        assert array.tobytes() == model_of(grid, other).arrays[name].tobytes(), name
    assert one["metrics"] == other["metrics"]
    plain = params.model_copy(
        update={"aggregation": params.aggregation.model_copy(update={"protection": "none"})}
    )
    clear = workspace_of(plain, "clear")
    third = embedded.run(plain, run="r", workspace=clear)
    found, expected = model_of(masked, one).arrays["coef"], model_of(clear, third).arrays["coef"]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert one["metrics"]["sites"] == {}
    assert one["metrics"]["overall"]["auc"] == pytest.approx(
        third["metrics"]["overall"]["auc"], abs=1e-3
    )


def test_nothing_of_a_single_site_is_in_the_exchange_store(trial: Trial) -> None:
    upload = decode(trial.path(keys.update(1, "site-a")).read_bytes()[:-84], kind="update")
    assert set(upload.arrays) == {"masked"}
    assert upload.meta["parts"]["update"] == {"kind": "masked", "weight": 1.0}
    vector = upload.arrays["masked"]
    others = [
        decode(trial.path(keys.update(1, site)).read_bytes()[:-84]).arrays["masked"]
        for site in SITES[1:]
    ]
    assert all(np.mean(vector == other) < 0.2 for other in others)
    # numbers below 2^40 in a uniform vector of 64 bits: one in 2^24
    assert np.mean(vector < 2**40) < 0.2
    receipt = decode(trial.path(keys.statistics("site-a")).read_bytes()[:-84])
    assert not receipt.arrays
    assert not receipt.meta["parts"]


def test_a_site_lost_before_the_upload_is_left_out(trial: Trial) -> None:
    trial.path(keys.statement("round-001", "site-e")).unlink()
    trial.path(keys.update(1, "site-e")).unlink()
    trial.walk("round-001/", without=("site-e",))
    record = json.loads(trial.path(keys.record(1)).read_text())
    assert sorted(record["participants"]) == SITES[:4]
    assert record["missing"] == {"site-e": "protocol.missing"}
    assert set(record["participants"].values()) == {None}


def test_scaffold_under_masks_knows_who_was_missing(trial: Trial) -> None:
    """The shared variate moves by the contributors' share of the weight, from sums alone."""
    from folkmoot.updates import RELEASED_DOOR, LinearUpdate, ReleasedUpdate, SummedUpdate
    from pipelines.coordinator.aggregate import scaffold

    shape, rng = (1, 5), np.random.default_rng(0)
    weights = {"a": 100.0, "b": 50.0, "c": 250.0}
    parts = {
        s: LinearUpdate({n: rng.normal(size=shape) for n in ("delta", "control")}, w)
        for s, w in weights.items()
    }
    arrays = {"coef": np.zeros((1, 4)), "intercept": np.zeros(1), "mean": np.zeros(4)}
    arrays |= {"scale": np.ones(4), "state.control": np.ones(shape)}
    models = [
        Artefact("model", {"weights": known}, arrays)
        for known in (weights, {"*": sum(weights.values())})
    ]
    here = ["a", "c"]
    single = [ReleasedUpdate(RELEASED_DOOR, {"site": s}, {"update": parts[s]}, "") for s in here]
    mean = {
        name: sum(weights[s] * parts[s].arrays[name] for s in here) / 350.0
        for name in ("delta", "control")
    }
    total = SummedUpdate(
        RELEASED_DOOR, {"site": "*", "sites": here}, {"update": LinearUpdate(mean, 350.0)}, ""
    )
    plain, _ = scaffold.aggregate(models[0], single, trial.context, 1)
    masked, meta = scaffold.aggregate(models[1], [total], trial.context, 1)
    for name, array in plain.items():
        np.testing.assert_allclose(masked[name], array, rtol=1e-12, atol=1e-15)
    assert meta["weights"] == {"*": 400.0}


def test_a_site_lost_between_upload_and_answer_stays_in_the_sum(trial: Trial) -> None:
    before = {s: trial.path(keys.update(1, s)).read_bytes() for s in SITES}
    for step in trial.plan.stage("round-001/"):
        if step.name != "round-001/unmask/site-b":
            execute(step, trial.fresh())
    record = json.loads(trial.path(keys.record(1)).read_text())
    assert sorted(record["participants"]) == SITES
    assert record["secure"]["silent"] == ["site-b"]
    assert before == {s: trial.path(keys.update(1, s)).read_bytes() for s in SITES}
    trial.walk("round-002/")  # and it is back in the next round
    assert sorted(json.loads(trial.path(keys.record(2)).read_text())["participants"]) == SITES


def test_too_few_answers_close_no_round_and_late_ones_do(trial: Trial) -> None:
    for step in trial.plan.stage("round-001/"):
        if step.place not in {"site-b", "site-c"} and not step.name.endswith("aggregate"):
            execute(step, trial.fresh())
    trial.refused("round-001/aggregate", "secure.threshold", "3 sites", "4 are needed")
    assert not trial.path(keys.model(1)).exists()
    execute(trial.plan.step("round-001/unmask/site-b"), trial.fresh())
    execute(trial.plan.step("round-001/aggregate"), trial.fresh())
    assert trial.path(keys.model(1)).exists()


def test_a_restarted_task_publishes_the_same_bytes(trial: Trial) -> None:
    for what in (keys.update(1, "site-a"), keys.statement("round-001", "site-a")):
        first = trial.path(what).read_bytes()
        trial.path(what).unlink()
        execute(trial.plan.step("round-001/train/site-a"), trial.fresh())
        assert trial.path(what).read_bytes() == first


def test_statistics_of_two_runs_that_differ_by_one_site(trial: Trial) -> None:
    """The same rows again without site-e: the difference would be its statistics."""
    again = Trial(trial.context.params, trial.workspace)
    object.__setattr__(again.context, "run", "r2")
    signed_anew(again.context, keys.RUN, b"{}")
    again.walk("prepare/", "setup/")
    again.walk("round-000/", until="survivors", without=("site-e",))
    execute(again.plan.step("round-000/survivors"), again.fresh())
    again.refused("round-000/unmask/site-a", "secure.contributors", "differ by 1 sites")


# ---- what a site or plan does not allow


def test_a_site_may_insist_on_masks(workspace_of: Callable[..., Path]) -> None:
    params = settings(aggregation={"protection": "none"})
    trial = Trial(params, workspace_of(params))
    home = SiteHome.find("site-a", trial.workspace)
    allowed = home.settings.permissions.model_copy(update={"insist_on_masks": True})
    changed = home.settings.model_copy(update={"permissions": allowed})
    save_settings(changed, home.root / "site.toml")
    trial.walk("prepare/", until="encode")
    trial.refused("prepare/encode/site-a", "privacy.not-permitted", "insist_on_masks")


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"kind": "trees"}},
        {"aggregation": {"protection": "masks", "threshold": 2}},
        {"aggregation": {"protection": "masks", "threshold": 6}},
        {"aggregation": {"protection": "masks", "colluding": 0.1}},
        {"aggregation": {"protection": "masks", "colluding": 0.3, "failing": 0.3}},
    ],
)
def test_plans_that_masks_cannot_serve(values: dict[str, Any]) -> None:
    merged = {**BASE, "aggregation": {"protection": "masks"}, **values}
    with pytest.raises(ConfigError):
        parse_params(merged)


def test_a_value_beyond_the_limit_of_rows_names_no_value(workspace_of: Callable[..., Path]) -> None:
    params = settings(aggregation={"rows_limit": 10})
    trial = Trial(params, workspace_of(params))
    trial.walk("prepare/", "setup/")
    trial.refused("round-000/statistics/site-a", "secure.range", "nothing was sent")
