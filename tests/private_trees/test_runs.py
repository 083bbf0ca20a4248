"""Whole federations that train private trees: budget, masks, hosts, an ordinary XGBoost model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.features import encode_frame
from folkmoot.models.predictor import Predictor
from folkmoot.models.tree_format import TreeSpace, parse_trees
from folkmoot.models.trees import to_xgboost, tree_bytes
from folkmoot.params import Params
from folkmoot.plan import keys
from folkmoot.trees.booster import margins
from folkmoot.wire import decode

from .conftest import contract_of, rows_of, settings

SEEDED = ("privacy.seeded=true", "privacy.noise=distributed")
ADDITIVE = (
    "model.trees={strategy: private_additive, rounds: 4, bins: 4}",
    "privacy.evaluation=noised",
)


def train(params: Params, workspace: Path, host: str = "embedded") -> dict[str, Any]:
    import importlib

    run = importlib.import_module(f"pipelines.hosts.{host}").run
    result: dict[str, Any] = run(params, run="r", workspace=workspace)
    return result


def published(workspace: Path) -> dict[str, bytes]:
    root = workspace / "exchange" / "demo" / "runs" / "r"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("additive", [False, True])
def test_a_run_spends_its_budget_and_ends_in_an_ordinary_booster(
    additive: bool, workspace_of: Callable[..., Path]
) -> None:
    from pipelines.recipes import load

    params = settings(*(ADDITIVE if additive else ("privacy.evaluation=noised",)))
    workspace = workspace_of(params)
    result = train(params, workspace)
    assert result["private"]
    for site in result["privacy"].values():
        assert 7.99 < site["epsilon"] <= 8.0  # with the noised evaluation
    model = decode(published(workspace)[result["model"]], kind="model")
    assert model.meta["private"]
    frame, contract = load("synthetic", params.data)
    found = Predictor(model, contract, params.anonymisation).predict(frame)
    right = (found["prediction"] == frame["outcome"]).mean()
    assert right > (frame["outcome"].value_counts(normalize=True).max() + 0.1)
    assert abs(result["metrics"]["overall"]["accuracy"] - right) < 0.15
    booster = to_xgboost(model)
    x = encode_frame(frame, contract, params.anonymisation, "trees")
    trees = parse_trees(tree_bytes(model), TreeSpace.from_meta(model.meta), count=None, what="it")
    share = np.float32(model.meta["base_score"][0])
    own = margins(trees, x, [float(np.log(share / (1 - share)))])
    assert np.abs(booster.inplace_predict(x, predict_type="margin") - own).max() < 1e-6
    written = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
    for tree in written["trees"]:
        assert not any(tree["loss_changes"])
        for parent, cover in zip(tree["parents"][1:], tree["sum_hessian"][1:], strict=True):
            assert cover == tree["sum_hessian"][parent] / 2, "nominal: nothing of rows"
    # What the model says of itself, from released sums alone.
    assert model.arrays["gain"].shape == (len(contract.inputs),)
    nodes = sum(len(tree["left_children"]) for tree in trees)
    assert model.arrays["leaf_noise"].shape == (nodes,)
    assert (model.arrays["leaf_noise"] > 0).any()
    assert not any(name.startswith("state.") for name in model.arrays)


def test_masked_and_open_sums_give_the_same_trees_and_a_retry_costs_nothing(
    workspace_of: Callable[..., Path],
) -> None:
    from folkmoot.privacy.ledger import Ledger

    masked = settings(*SEEDED, "aggregation.protection=masks")
    clear = settings(*SEEDED, "privacy.simulate_sums=true")
    found = {}
    for name, params in (("masked", masked), ("clear", clear)):
        workspace = workspace_of(params, name)
        result = train(params, workspace)
        model = decode(published(workspace)[result["model"]], kind="model")
        found[name] = (model.meta["base_score"], model.meta["trees"])
        assert model.meta["trees"] == 16
        if name == "masked":
            for round in range(1, 6):
                update = published(workspace)[f"round-00{round}/update-site-a"]
                assert b"masked" in update
                assert b"update.sum" not in update
            ledger = Ledger(workspace / "sites/site-a/private/ledger.sqlite", "site-a")
            entries = len(list(ledger.entries()))
            ledger.close()
            before = published(workspace)
            for path in (workspace / "exchange/demo/runs/r").rglob("*"):
                if path.is_file() and path.parent.name == "round-003":
                    path.unlink()
            (workspace / "exchange/demo/runs/r" / keys.RESULT).unlink()
            train(params, workspace)
            assert published(workspace) == before
            ledger = Ledger(workspace / "sites/site-a/private/ledger.sqlite", "site-a")
            assert len(list(ledger.entries())) == entries
            ledger.close()
    assert found["masked"][1] == found["clear"][1]


@pytest.mark.slow
def test_dvc_makes_the_same_bytes(workspace_of: Callable[..., Path]) -> None:
    """Seeded noise, so that even what is drawn can be compared."""
    params = settings("privacy.seeded=true", "model.trees.rounds=2", "tracking.baselines=false")
    found = []
    for host in ("embedded", "dvc"):
        workspace = workspace_of(params, host)
        train(params, workspace, host)
        found.append(published(workspace))
    assert found[0] == found[1]
    assert any("update" in name for name in found[0])


def table(task: str, folder: Path) -> tuple[Any, list[str]]:
    """Rows of every kind of column, with categories and missing values, as a file of its own."""
    import pandas as pd
    import yaml

    contract, x = contract_of(task), rows_of(1500, 7)
    signal = 2.0 * (x[:, 0] / 50 - 1) + 1.5 * np.isin(x[:, 2], [1, 4]) - 1.0 * (x[:, 4] == 1)
    signal += 0.3 * np.random.default_rng(8).normal(size=1500)
    frame = pd.DataFrame(x, columns=[c.name for c in contract.inputs])
    frame["ward"] = frame["ward"].map(dict(enumerate("uvwxyz")))
    frame["old"] = frame["old"].map({0.0: "false", 1.0: "true"})
    frame["kind"] = frame["kind"].map({0.0: "k0", 1.0: "k1"})
    if task == "regression":
        frame["y"] = 10 * signal
    else:
        frame["y"] = np.array(contract.classes)[np.digitize(signal, [-1.0, 1.0])]
    frame.to_csv(folder / "rows.csv", index=False)
    values = contract.model_dump(mode="json", exclude_defaults=True)
    (folder / "contract.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return frame, [
        "data.recipe=csv",
        f"data.path={folder / 'rows.csv'}",
        f"data.contract={folder / 'contract.yaml'}",
    ]


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_several_classes_and_numbers_are_learnt_as_well(
    task: str, workspace_of: Callable[..., Path], tmp_path: Path
) -> None:
    frame, data = table(task, tmp_path)
    params = settings(
        *data,
        "model.trees.rounds=6",
        "model.trees.eta=0.5",
        "privacy.epsilon=100",
        "privacy.rows=1100",
        "privacy.delta=1e-4",
        "privacy.noise=coordinator",
    )
    workspace = workspace_of(params)
    result = train(params, workspace)
    contract = contract_of(task)
    model = decode(published(workspace)[result["model"]], kind="model")
    assert model.meta["trees"] == 20 * (3 if task == "multiclass" else 1)
    found = Predictor(model, contract, params.anonymisation).predict(frame)["prediction"]
    if task == "multiclass":
        assert (found == frame["y"]).mean() > frame["y"].value_counts(normalize=True).max() + 0.1
    else:
        assert np.corrcoef(found, frame["y"])[0, 1] > 0.7
        assert model.meta["base_score"][0] == pytest.approx(frame["y"].mean(), abs=3.0)


@pytest.mark.slow
def test_mlflow_holds_an_xgboost_model_curves_and_importance(
    workspace_of: Callable[..., Path],
) -> None:
    """Registered beside its statement; plain MLflow and XGBoost read it."""
    import mlflow.xgboost

    from pipelines.conclusion import conclude_locally

    params = settings(*ADDITIVE, "tracking.enabled=true")
    workspace = workspace_of(params)
    result = train(params, workspace)
    found = conclude_locally(params, result, baselines=False, workspace=workspace)
    assert found["registered"]["version"] == 1
    artifacts = workspace / "coordinator" / "mlartifacts"
    names = {path.name for path in artifacts.rglob("*") if path.is_file()}
    assert {
        "shapes.png",
        "importance.png",
        "epsilon.png",
        "contributions.json",
        "contributions.png",
    } <= names
    assert {"importance.json", "privacy_statement.md", "model.ubj", "MLmodel"} <= names
    told = json.loads(next(artifacts.rglob("importance.json")).read_text())["importance"]
    assert sum(told.values()) == pytest.approx(1.0)
    folder = next(artifacts.rglob("MLmodel")).parent
    booster = mlflow.xgboost.load_model(str(folder))
    model = decode(published(workspace)[result["model"]], kind="model")
    x = np.random.default_rng(0).uniform(-3, 3, (200, len(model.meta["features"])))
    own = to_xgboost(model).inplace_predict(x)
    assert np.array_equal(booster.inplace_predict(x), own)
    assert booster.feature_names == list(model.meta["features"])
