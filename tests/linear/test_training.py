"""Linear training through the embedded host against scikit-learn on the pooled rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.preprocessing import StandardScaler

from folkmoot.errors import ProtocolError
from folkmoot.exchange import ExchangeStore
from folkmoot.models.linear import to_pipeline
from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext, keys
from folkmoot.wire import Artefact, decode, encode
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import execute, open_context, store_of
from pipelines.plans import plan_of
from site_tasks.control import load_control, save_control
from site_tasks.home import SiteHome
from site_tasks.linear_loss import sums
from site_tasks.prepared import Prepared, load_prepared
from tests.conftest import signed_anew

Workspace = Callable[..., Path]
SITES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three classes, weights, missing values; no site has all, one trains on a single class."""
    folder = tmp_path_factory.mktemp("iris")
    x, y = load_iris(return_X_y=True)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(x, columns=["sl", "sw", "pl", "pw"])
    frame["kind"] = np.array(["setosa", "versicolor", "virginica"])[y]
    frame["times"] = rng.integers(1, 4, len(y)).astype(float)
    frame["split"] = np.where(rng.random(len(y)) < 0.3, "test", "train")
    # a: setosa and versicolor; b: versicolor and virginica; c and d train on one class alone.
    homes = {0: "ac", 1: "ab", 2: "bd"}
    frame["site"] = [homes[k][n % 2] for n, k in enumerate(y)]
    for site, other in (("c", "versicolor"), ("d", "setosa")):
        frame.loc[(frame["site"] == site) & (frame["split"] == "test"), "kind"] = other
    frame.loc[rng.random(len(y)) < 0.1, "sw"] = np.nan
    contract = {
        "name": "iris",
        "task": "multiclass",
        "columns": [
            {"name": "sl", "bounds": [0.0, 10.0]},
            {"name": "sw", "bounds": [0.0, 10.0], "missing": True},
            {"name": "pl", "bounds": [0.0, 10.0]},
            {"name": "pw", "bounds": [0.0, 10.0]},
            {
                "name": "kind",
                "role": "label",
                "type": "category",
                "categories": ["setosa", "versicolor", "virginica"],
            },
            {"name": "times", "role": "weight", "bounds": [0.0, 10.0]},
            {"name": "split", "role": "split", "type": "category", "categories": ["train", "test"]},
        ],
    }
    (folder / "iris.yaml").write_text(yaml.safe_dump(contract))
    frame.to_csv(folder / "iris.csv", index=False)
    return {
        "federation": {"sites": SITES},
        "data": {
            "recipe": "csv",
            "path": str(folder / "iris.csv"),
            "contract": str(folder / "iris.yaml"),
            "partition": {"kind": "natural", "column": "site"},
        },
        "tracking": {"enabled": False},
    }


def context_of(params: Params, workspace: Path, name: str) -> RunContext:
    return open_context(name, params.federation.name, store_of(params, workspace), workspace)


def model_of(context: RunContext, key: str) -> Artefact:
    return decode(context.store.get(context.key(key)), kind="model")


def rows_of(context: RunContext) -> dict[str, Prepared]:
    members = context.params.federation.members
    return {s: load_prepared(context, SiteHome.find(s, context.workspace)) for s in members}


def pooled(prepared: dict[str, Prepared], part: Any) -> tuple[Any, Any, Any]:
    weights = [p.weights(part) for p in prepared.values()]
    return (
        np.concatenate([p.matrix(part) for p in prepared.values()]),
        np.concatenate([p.labels(part) for p in prepared.values()]),
        None if weights[0] is None else np.concatenate(weights),
    )


def matrix(model: Artefact) -> Any:
    return np.column_stack([model.arrays["coef"], model.arrays["intercept"]])


def test_newton_with_weights_gaps_and_missing_classes_is_pooled_training(
    workspace_of: Workspace, iris: dict[str, Any]
) -> None:
    params = parse_params(iris, ["model.linear.rounds=15"])
    workspace = workspace_of(params)
    result = run(params, run="one", workspace=workspace)
    assert result["stop"] == "converged"
    context = context_of(params, workspace, "one")
    prepared = rows_of(context)
    assert [len(np.unique(p.labels("train"))) for p in prepared.values()] == [2, 2, 1, 1]
    x, y, weights = pooled(prepared, "train")
    assert np.isnan(x).any()
    scaler = StandardScaler().fit(x)
    reference = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=200)
    reference.fit(np.nan_to_num(scaler.transform(x)), y, sample_weight=weights)
    model = model_of(context, result["model"])
    np.testing.assert_allclose(model.arrays["coef"], reference.coef_, atol=1e-8)
    np.testing.assert_allclose(model.arrays["intercept"], reference.intercept_, atol=1e-8)

    x, y, _ = pooled(prepared, "test")
    p = reference.predict_proba(np.nan_to_num(scaler.transform(x)))
    overall = result["metrics"]["overall"]
    assert overall["accuracy"] == accuracy_score(y, p.argmax(axis=1))
    assert overall["log_loss"] == pytest.approx(log_loss(y, p), rel=1e-7)
    np.testing.assert_allclose(to_pipeline(model).predict_proba(x), p, atol=1e-8)


def test_a_step_on_all_rows_is_gradient_descent_on_the_pooled_objective(
    workspace_of: Workspace, iris: dict[str, Any]
) -> None:
    """So one penalty means the same to every strategy, however the rows are dealt."""
    params = parse_params(
        iris, ["model.linear.strategy=fedavg", "model.linear.rounds=3", "model.linear.l2=7.0",
               "model.linear.batch_size=1000", "model.linear.learning_rate=0.5"],
    )  # fmt: skip
    workspace = workspace_of(params)
    run(params, run="one", workspace=workspace)
    context = context_of(params, workspace, "one")
    x, y, weights = pooled(rows_of(context), "train")
    first = model_of(context, keys.model(0))
    z = np.nan_to_num((x - first.arrays["mean"]) / first.arrays["scale"])
    w = np.zeros((3, x.shape[1] + 1))
    for round in (1, 2, 3):
        slope = sums("multiclass", w, [(z, y, weights)]).gradient
        slope[:, :-1] += 7.0 * w[:, :-1]
        w = w - 0.5 * slope / weights.sum()
        np.testing.assert_allclose(matrix(model_of(context, keys.model(round))), w, rtol=1e-10)


def test_scaffold_reaches_the_pooled_optimum_where_fedavg_drifts(
    workspace_of: Workspace,
) -> None:
    def distance(strategy: str) -> float:
        settings = [
            f"model.linear.strategy={strategy}", "model.linear.rounds=30",
            "model.linear.local_epochs=10", "model.linear.batch_size=1000",
            "model.linear.learning_rate=0.3", "model.linear.l2=100.0",
            "model.linear.early_stopping.tolerance=0.0", "aggregation.evaluate_every=0",
        ]  # fmt: skip
        params = parse_params(base, settings)
        result = run(params, run=strategy, workspace=workspace)
        model = model_of(context_of(params, workspace, strategy), result["model"])
        return float(np.abs(matrix(model) - best).max())

    base = {
        "data": {"partition": {"kind": "dirichlet", "alpha": 0.3}},
        "tracking": {"enabled": False},
    }
    exact = parse_params(base, ["model.linear.l2=100.0", "model.linear.rounds=20"])
    workspace = workspace_of(exact)
    result = run(exact, run="exact", workspace=workspace)
    best = matrix(model_of(context_of(exact, workspace, "exact"), result["model"]))
    drift, corrected = distance("fedavg"), distance("scaffold")
    assert drift > 1e-2
    assert corrected < drift / 1000


def test_metrics_belong_to_the_round_before(workspace_of: Workspace) -> None:
    params = parse_params(
        {"tracking": {"enabled": False}},
        ["model.linear.strategy=fedavg", "model.linear.rounds=5", "aggregation.evaluate_every=2"],
    )
    workspace = workspace_of(params)
    result = run(params, run="one", workspace=workspace)
    context = context_of(params, workspace, "one")
    records = [json.loads(context.store.get(context.key(keys.record(r)))) for r in range(1, 6)]
    assert [r["metrics_round"] for r in records] == [None, None, 2, None, 4]
    x, y, _ = pooled(rows_of(context), "test")
    for record in records[2::2]:
        model = to_pipeline(model_of(context, keys.model(record["metrics_round"])))
        found = record["metrics"]["overall"]["log_loss"]
        assert found == pytest.approx(log_loss(y, model.predict_proba(x)), rel=1e-9)
    final = to_pipeline(model_of(context, result["model"]))
    found = result["metrics"]["overall"]["accuracy"]
    assert found == accuracy_score(y, final.predict_proba(x)[:, 1] > 0.5)


def test_a_control_variate_counts_only_if_the_global_model_has_it(
    workspace_of: Workspace,
) -> None:
    params = parse_params(
        {"tracking": {"enabled": False}},
        ["model.linear.strategy=scaffold", "model.linear.rounds=3"],
    )
    workspace = workspace_of(params)
    run(params, run="one", workspace=workspace)
    context, home = context_of(params, workspace, "one"), SiteHome.find("site-b", workspace)
    third = model_of(context, keys.model(3))
    shape = matrix(third).shape
    kept = {r: np.load(home.work / f"scaffold/demo--one/round-{r:03d}.npy") for r in (1, 2, 3)}
    assert np.array_equal(load_control(context, home, 4, third, shape), kept[3])
    late = {site: 1.0 for site in third.meta["participants"] if site != "site-b"}
    without = replace(third, meta={**third.meta, "participants": late})
    assert np.array_equal(load_control(context, home, 4, without, shape), kept[2])
    assert not load_control(context, home, 1, third, shape).any()
    save_control(context, home, 3, np.zeros((5, 5)))  # of another shape: never used
    assert np.array_equal(load_control(context, home, 4, third, shape), kept[2])
    assert (home.work / "scaffold/demo--one/round-003.npy").stat().st_mode & 0o077 == 0


def test_a_proximal_term_holds_local_training_back(
    workspace_of: Workspace, iris: dict[str, Any]
) -> None:
    """FedProx without its term is FedAvg; with it every site stays nearer to the global model."""
    base = ["model.linear.rounds=1", "model.linear.local_epochs=5", "model.linear.l2=0.0"]
    moved = {}
    for name, setting in (("fedavg", 0.5), ("fedprox", 0.0), ("fedprox", 5.0)):
        more = [f"model.linear.strategy={name}", f"model.linear.proximal={setting}"]
        params = parse_params(iris, [*base, *more])
        workspace = workspace_of(params, f"{name}-{setting}")
        result = run(params, run="one", workspace=workspace)
        moved[name, setting] = matrix(
            model_of(context_of(params, workspace, "one"), result["model"])
        )
    np.testing.assert_array_equal(moved["fedavg", 0.5], moved["fedprox", 0.0])
    assert np.linalg.norm(moved["fedprox", 5.0]) < 0.9 * np.linalg.norm(moved["fedprox", 0.0])


@pytest.mark.parametrize(
    "changes",
    [{"run": "two"}, {"federation": "other"}, {"round": 0}, {"features": ["sl", "pl", "pw", "sw"]}],
)
def test_a_site_trains_on_no_other_runs_model(
    workspace_of: Workspace, iris: dict[str, Any], changes: dict[str, Any]
) -> None:
    params = parse_params(iris, ["model.linear.rounds=2"])
    workspace = workspace_of(params)
    run(params, run="one", workspace=workspace)
    context = context_of(params, workspace, "one")
    model = model_of(context, keys.model(1))
    data = encode(replace(model, meta={**model.meta, **changes}))
    store = ExchangeStore(workspace / "another")
    there = replace(context, store=store, cache={})
    signed_anew(there, keys.RUN, context.store.get(context.key(keys.RUN)))
    signed_anew(there, keys.model(1), data)
    step = plan_of(params, context.contract).step("round-002/train/a")
    with pytest.raises(ProtocolError) as caught:
        execute(step, there)
    assert (caught.value.code, caught.value.site) == ("protocol.mismatch", "a")
    assert store.find(context.key(keys.update(2, "a"))) is None
