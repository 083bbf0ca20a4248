"""The coordinator's side: initial scaling, weighted means, optimisers, Newton's steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from folkmoot.contract import Contract
from folkmoot.errors import DataError, PrivacyError, ProtocolError
from folkmoot.features import feature_space
from folkmoot.models.linear import to_pipeline, to_sklearn
from folkmoot.params import Anonymisation
from folkmoot.plan import RunContext
from folkmoot.updates import LinearUpdate
from folkmoot.wire import Artefact, decode, encode
from pipelines.coordinator.aggregate import aggregator, initialiser, newton
from site_tasks.linear_loss import sums
from site_tasks.statistics import sums as statistics

Any_ = Callable[..., Any]
SITES = ("a", "b", "c", "d")


def dealt(task: str, classes: int = 2, n: int = 240, d: int = 5) -> dict[str, tuple[Any, Any]]:
    """Rows of four unequal sites; a feature may be constant, values may be missing."""
    rng = np.random.default_rng(len(task) + classes)
    x = rng.normal(2.0, 3.0, (n, d)).clip(-10, 30)
    z = (x - 2.0) @ rng.normal(size=(d, classes)) / 4 + rng.gumbel(size=(n, classes))
    y = z[:, 0] * 20 if task == "regression" else z.argmax(axis=1)
    cut = [20, 90, 130]
    parts = zip(SITES, np.split(x, cut), np.split(y, cut), strict=True)
    return {site: (a, b) for site, a, b in parts}


def started(
    contract: Contract, context: RunContext, release: Any_, rows: dict[str, tuple[Any, Any]]
) -> Artefact:
    """Initial model from real statistics, as round-000/initialise publishes it."""
    space = feature_space(contract, Anonymisation(), "linear")
    released = [
        release(context, s, 0, statistics([(x, y, None)], space, contract), part="statistics")
        for s, (x, y) in rows.items()
    ]
    return initialiser("linear")(released[::-1], context)


def advance(context: RunContext, model: Artefact, updates: list[Any], round: int) -> Artefact:
    """Next model, through the wire, as the coordinator's aggregate step publishes it."""
    step = aggregator(context.params.model.linear.strategy)
    arrays, meta = step(model, updates, context, round)
    people = {u.site: u.parts["update"].weight for u in updates}
    meta = {**model.meta, **meta, "round": round, "participants": people}
    return decode(encode(Artefact("model", meta, arrays)), kind="model")


def newton_updates(
    context: RunContext,
    model: Artefact,
    release: Any_,
    rows: dict[str, tuple[Any, Any]],
    round: int,
) -> list[Any]:
    updates = []
    for site, (x, y) in rows.items():
        w = np.column_stack([model.arrays["coef"], model.arrays["intercept"]])
        z = np.nan_to_num((x - model.arrays["mean"]) / model.arrays["scale"], nan=0.0)
        found = sums(context.contract.task, w, [(z, y, None)])
        arrays = {
            "loss": np.array(found.loss),
            "gradient": found.gradient.ravel(),
            "hessian": found.hessian.reshape(w.size, w.size),
        }
        updates.append(release(context, site, round, arrays, float(len(y))))
    return updates


def trained(
    contract: Contract, context: RunContext, release: Any_, rows: dict[str, tuple[Any, Any]]
) -> tuple[Artefact, list[float]]:
    model, changes = started(contract, context, release, rows), []
    for round in range(1, 30):
        updates = newton_updates(context, model, release, rows, round)
        model = advance(context, model, updates, round)
        changes.append(model.meta["change"])
        if model.meta["change"] < 1e-12:
            break
    return model, changes


def test_federation_scaling_is_standard_scaler(
    contract: Any_, context: Any_, release: Any_
) -> None:
    plan = contract("binary", 5)
    rows = dealt("binary")
    for x, _ in rows.values():
        x[:, 3] = 10.000001  # constant, and off the public midpoint
        x[::5, 1] = np.nan
    model = started(plan, context(plan), release, rows)
    pooled = StandardScaler().fit(np.concatenate([x for x, _ in rows.values()]))
    np.testing.assert_allclose(model.arrays["mean"], pooled.mean_, rtol=1e-12)
    np.testing.assert_allclose(model.arrays["scale"], pooled.scale_, rtol=1e-12)
    assert model.arrays["scale"][3] == 1.0
    assert model.meta["participants"] == {s: len(y) for s, (_, y) in rows.items()}
    assert list(model.meta["participants"]) == sorted(SITES)


def test_other_scalings_read_no_statistics(contract: Any_, context: Any_, release: Any_) -> None:
    plan, rows = contract("binary", 5), dealt("binary")
    bounds = started(plan, context(plan, "data.scaling=bounds"), release, rows)
    assert set(bounds.arrays["mean"]) == {10.0}
    assert set(bounds.arrays["scale"]) == {20.0}
    none = started(plan, context(plan, "data.scaling=none"), release, rows)
    assert set(none.arrays["mean"]) == {0.0}
    assert set(none.arrays["scale"]) == {1.0}


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 4)])
@pytest.mark.parametrize("l2", [1.0, 0.05])
def test_newton_is_pooled_logistic_regression(
    contract: Any_, context: Any_, release: Any_, task: str, classes: int, l2: float
) -> None:
    plan, rows = contract(task, 5, classes), dealt(task, classes)
    model, changes = trained(plan, context(plan, f"model.linear.l2={l2}"), release, rows)
    assert len(changes) <= 10
    x = np.concatenate([x for x, _ in rows.values()])
    y = np.concatenate([y for _, y in rows.values()])
    z = StandardScaler().fit_transform(x)
    pooled = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-12, max_iter=200)
    pooled.fit(z, y)
    assert np.abs(model.arrays["coef"] - pooled.coef_).max() < 1e-9
    assert np.abs(model.arrays["intercept"] - pooled.intercept_).max() < 1e-9
    for found, data in ((to_pipeline(model), x), (to_sklearn(model), x)):
        np.testing.assert_allclose(found.predict_proba(data), pooled.predict_proba(z), atol=1e-9)
        assert list(found.predict(data)) == [f"c{k}" for k in pooled.predict(z)]
        assert found.score(data, [f"c{k}" for k in y]) == pooled.score(z, y)


@pytest.mark.parametrize("l2", [0.0, 3.0])
def test_ridge_takes_one_round(contract: Any_, context: Any_, release: Any_, l2: float) -> None:
    plan, rows = contract("regression", 5), dealt("regression")
    model, changes = trained(plan, context(plan, f"model.linear.l2={l2}"), release, rows)
    assert len(changes) == 1
    x = np.concatenate([x for x, _ in rows.values()])
    y = np.concatenate([y for _, y in rows.values()])
    z = StandardScaler().fit_transform(x)
    pooled = (Ridge(alpha=l2) if l2 else LinearRegression()).fit(z, y)
    np.testing.assert_allclose(model.arrays["coef"][0], pooled.coef_, rtol=1e-9)
    assert isinstance(to_sklearn(model), type(pooled))
    np.testing.assert_allclose(to_sklearn(model).predict(x), pooled.predict(z), rtol=1e-9)
    np.testing.assert_allclose(to_pipeline(model).predict(x), pooled.predict(z), rtol=1e-9)


def test_collinear_features_without_penalty_get_the_least_norm(
    contract: Any_, context: Any_, release: Any_
) -> None:
    plan, rows = contract("regression", 6), dealt("regression")
    rows = {s: (np.column_stack([x, x[:, 0]]), y) for s, (x, y) in rows.items()}
    model, _ = trained(plan, context(plan, "model.linear.l2=0.0"), release, rows)
    z = StandardScaler().fit_transform(np.concatenate([x for x, _ in rows.values()]))
    pooled = LinearRegression().fit(z, np.concatenate([y for _, y in rows.values()]))
    np.testing.assert_allclose(model.arrays["coef"][0], pooled.coef_, atol=1e-8)


def test_a_step_that_raises_the_objective_is_halved_until_it_does_not(
    contract: Any_, context: Any_, release: Any_
) -> None:
    """From far away Newton's full step overshoots: the logistic curve is flat there."""
    plan, rows = contract("binary", 1), dealt("binary", d=1)
    run = context(plan, "model.linear.l2=0.001")
    model = started(plan, run, release, rows)
    model = replace(model, arrays={**model.arrays, "coef": np.array([[6.0]])})
    steps, objectives, accepted = [], [], []
    for round in range(1, 40):
        updates = newton_updates(run, model, release, rows, round)
        model = advance(run, model, updates, round)
        steps.append(model.meta["step"])
        objectives.append(model.meta["objective"])
        if steps[-1] == 1.0:
            accepted.append(objectives[-1])
        if model.meta["change"] < 1e-10:
            break
    assert min(steps) < 1.0
    assert all(after <= before + 1e-9 for before, after in pairwise(accepted))
    z = StandardScaler().fit_transform(np.concatenate([x for x, _ in rows.values()]))
    pooled = LogisticRegression(C=1e3, solver="newton-cholesky", tol=1e-12).fit(
        z, np.concatenate([y for _, y in rows.values()])
    )
    assert model.arrays["coef"][0, 0] == pytest.approx(pooled.coef_[0, 0], rel=1e-8)


def test_separable_rows_without_penalty_stay_finite(
    contract: Any_, context: Any_, release: Any_
) -> None:
    plan = contract("binary", 2)
    rng = np.random.default_rng(0)
    rows = {}
    for site in SITES:
        x = rng.normal(size=(30, 2))
        rows[site] = (x, (x[:, 0] > 0).astype(np.int64))
    model, _ = trained(plan, context(plan, "model.linear.l2=0.0"), release, rows)
    assert np.isfinite(model.arrays["coef"]).all()


def test_solve_leaves_directions_without_curvature_alone() -> None:
    h = np.diag([2.0, 0.0, 1.0])
    np.testing.assert_allclose(newton.solve(h, np.array([4.0, 0.0, 3.0]), 1), [2.0, 0.0, 3.0])
    noisy = np.array([[1.0, 2.0], [2.0, 1.0]])  # one eigenvalue is negative
    found = newton.solve(noisy, np.array([3.0, 3.0]), 1)
    np.testing.assert_allclose(found, [1.0, 1.0])


def test_fedavg_is_the_mean_weighted_by_rows_in_the_order_of_names(
    contract: Any_, context: Any_, release: Any_
) -> None:
    plan, rows = contract("binary", 5), dealt("binary")
    run = context(plan, "model.linear.strategy=fedavg")
    model = started(plan, run, release, rows)
    deltas = {s: np.random.default_rng(i).normal(size=(1, 6)) for i, s in enumerate(SITES)}
    weights = dict(zip(SITES, (20.0, 70.0, 40.0, 110.0), strict=True))
    updates = [release(run, s, 1, {"delta": deltas[s]}, weights[s]) for s in SITES]
    after = advance(run, model, updates, 1)
    expected = sum(weights[s] * deltas[s] for s in SITES) / 240
    np.testing.assert_allclose(after.arrays["coef"], expected[:, :-1], rtol=1e-12)
    np.testing.assert_allclose(after.arrays["intercept"], expected[:, -1], rtol=1e-12)
    assert after.meta["change"] == pytest.approx(1.0)
    backwards = advance(run, model, updates[::-1], 1)
    assert backwards.arrays["coef"].tobytes() == after.arrays["coef"].tobytes()


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi", "fedadagrad"])
def test_adaptive_optimisers_follow_the_paper(
    contract: Any_, context: Any_, release: Any_, strategy: str
) -> None:
    """Number by number, as in algorithm 2 of Reddi et al. 2021."""
    plan, rows = contract("binary", 1), dealt("binary", d=1)
    run = context(
        plan, f"model.linear.strategy={strategy}", "model.linear.server_learning_rate=0.3",
        "model.linear.beta1=0.8", "model.linear.beta2=0.95", "model.linear.tau=0.01",
        "aggregation.weighting=uniform",
    )  # fmt: skip
    model = started(plan, run, release, rows)
    deltas = np.random.default_rng(1).normal(size=(4, 2)) / 10
    x, m, v = 0.0, 0.0, 0.01**2
    for round, (delta, intercept) in enumerate(deltas, 1):
        sent = {"delta": np.array([[delta, intercept]])}
        model = advance(run, model, [release(run, s, round, sent) for s in SITES], round)
        if strategy == "fedadagrad":
            m, v = delta, v + delta**2
        else:
            m = 0.8 * m + 0.2 * delta
            keep = 0.95 * v + 0.05 * delta**2
            v = keep if strategy == "fedadam" else v - 0.05 * delta**2 * np.sign(v - delta**2)
        x += 0.3 * m / (np.sqrt(v) + 0.01)
        assert model.arrays["coef"][0, 0] == pytest.approx(x, rel=1e-12)


def test_scaffold_weighs_controls_by_all_member_sites(
    contract: Any_, context: Any_, release: Any_
) -> None:
    plan, rows = contract("binary", 1), dealt("binary", d=1)
    run = context(plan, "model.linear.strategy=scaffold")
    model = started(plan, run, release, rows)
    sent = {"delta": np.array([[1.0, 0.0]]), "control": np.array([[2.0, 0.0]])}
    some = [release(run, s, 1, sent, float(len(rows[s][1]))) for s in ("b", "d")]
    after = advance(run, model, some, 1)
    np.testing.assert_allclose(after.arrays["coef"], [[1.0]])  # mean over those who came
    np.testing.assert_allclose(after.arrays["state.control"], [[2.0 * 180 / 240, 0.0]])


@pytest.mark.parametrize("strategy", ["newton", "fedavg", "fedadam", "scaffold"])
def test_only_released_updates_are_taken(
    contract: Any_, context: Any_, release: Any_, strategy: str
) -> None:
    plan, rows = contract("binary", 1), dealt("binary", d=1)
    run = context(plan, f"model.linear.strategy={strategy}")
    model = started(plan, run, release, rows)
    with pytest.raises(PrivacyError, match=r"privacy\.order"):
        aggregator(strategy)(model, [LinearUpdate({"delta": np.zeros((1, 2))}, 1.0)], run, 1)  # type: ignore[list-item]
    with pytest.raises(PrivacyError, match=r"privacy\.order"):
        initialiser("linear")([{"rows": 3}], run)  # type: ignore[list-item]


@pytest.mark.parametrize("strategy", ["newton", "fedavg", "fedadam", "scaffold"])
def test_an_update_of_another_shape_names_its_site(
    contract: Any_, context: Any_, release: Any_, strategy: str
) -> None:
    plan, rows = contract("binary", 1), dealt("binary", d=1)
    run = context(plan, f"model.linear.strategy={strategy}")
    model = started(plan, run, release, rows)
    wrong = release(run, "c", 1, {"delta": np.zeros((1, 3)), "loss": np.zeros(())}, 5.0)
    with pytest.raises(ProtocolError) as caught:
        aggregator(strategy)(model, [wrong], run, 1)
    assert (caught.value.code, caught.value.site) == ("protocol.mismatch", "c")


def test_no_values_anywhere_is_an_error(contract: Any_, context: Any_, release: Any_) -> None:
    plan = contract("binary", 2)
    rows = {s: (np.full((3, 2), np.nan), np.zeros(3, np.int64)) for s in SITES}
    with pytest.raises(DataError, match=r"data\.missing"):
        started(plan, context(plan), release, rows)


def test_the_pipeline_fills_missing_values_with_the_mean(
    contract: Any_, context: Any_, release: Any_
) -> None:
    plan, rows = contract("binary", 5), dealt("binary")
    model, _ = trained(plan, context(plan), release, rows)
    x = np.concatenate([x for x, _ in rows.values()])[:20].copy()
    filled = x.copy()
    x[::2, 1] = np.nan
    filled[::2, 1] = model.arrays["mean"][1]
    found = to_pipeline(model)
    np.testing.assert_allclose(found.predict_proba(x), found.predict_proba(filled), rtol=1e-12)
    with pytest.raises(ProtocolError, match="not linear"):
        to_sklearn(replace(model, meta={**model.meta, "kind": "trees"}))
