"""Whole runs on mixed rows: learning, resumption and processes that remember nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
import yaml

from folkmoot import metrics
from folkmoot.models.trees import to_xgboost, tree_bytes, tree_count
from folkmoot.params import Params, parse_params
from folkmoot.plan import keys
from folkmoot.wire import decode, digest
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import open_context, store_of
from site_tasks.home import SiteHome
from site_tasks.prepared import Prepared, load_prepared
from tests.conftest import copy_workspace

from .conftest import contract_of, rows_of

Workspace = Callable[..., Path]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Params]:
    """Params of a federation whose rows have categories, missing values and sample weights."""
    folder = tmp_path_factory.mktemp("rows")
    contract = contract_of("multiclass").model_dump(mode="json")
    contract["columns"].append({"name": "w", "role": "weight", "bounds": [0.0, 10.0]})
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract))
    x, y = rows_of("multiclass", 1200, 1)
    frame = pd.DataFrame({"age": x[:, 0], "dose": x[:, 1]})
    for column, j, names in (("ward", 2, list("uvwxyz")), ("kind", 4, ["k0", "k1", "k2"])):
        frame[column] = [None if np.isnan(v) else names[int(v)] for v in x[:, j]]
    frame["time"] = x[:, 3]
    frame["y"] = np.array(["low", "mid", "high"])[y]
    frame["w"] = np.random.default_rng(2).uniform(0.5, 2.0, len(frame))
    frame.to_csv(folder / "rows.csv", index=False)

    def make(*overrides: str) -> Params:
        return parse_params(
            {
                "federation": {"sites": ["a", "b", "c"]},
                "data": {
                    "recipe": "csv",
                    "path": str(folder / "rows.csv"),
                    "contract": str(folder / "contract.yaml"),
                },
                "model": {"kind": "trees", "trees": {"rounds": 4, "trees_per_round": 2}},
                "tracking": {"enabled": False},
            },
            overrides,
        )

    return make


def published(workspace: Path, name: str) -> dict[str, str]:
    """Digest of everything a run put into the exchange store."""
    root = workspace / "exchange" / "demo" / "runs" / name
    return {
        str(path.relative_to(root)): digest(path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".part-")
    }


def _elsewhere(params: Params, workspace: Path) -> tuple[list[float], float]:
    """AUC on everybody's held-out rows: XGBoost at each site alone, and on pooled rows."""
    context = open_context("one", "demo", store_of(params, workspace), workspace)
    sites = [load_prepared(context, SiteHome.find(s, workspace)) for s in params.federation.members]
    x, y, w = ([f(p) for p in sites] for f in _TRAIN)
    held_out = np.concatenate([p.matrix("test") for p in sites])
    truth = np.concatenate([p.labels("test") for p in sites])

    def auc(rows: Any, labels: Any, weights: Any) -> float:
        types = list(sites[0].features.types)
        matrix = xgboost.QuantileDMatrix(rows, labels, weight=weights, feature_types=types)
        settings = {"objective": "multi:softprob", "num_class": 3, "max_depth": 6, "eta": 0.3}
        scores = xgboost.train(settings, matrix, 30).inplace_predict(held_out)
        counts = metrics.count("multiclass", truth, scores, 3)
        return metrics.metrics("multiclass", counts)["auc"]

    alone = [auc(*rows) for rows in zip(x, y, w, strict=True)]
    return alone, auc(*(np.concatenate(parts) for parts in (x, y, w)))


_TRAIN: tuple[Callable[[Prepared], Any], ...] = (
    lambda p: p.matrix("train"),
    lambda p: p.labels("train"),
    lambda p: p.weights("train"),
)
SAMPLED = ("model.trees.subsample=0.8", "model.trees.colsample_bytree=0.8")


def test_mixed_rows_are_learnt(mixed: Callable[..., Params], workspace_of: Workspace) -> None:
    params = mixed("model.trees.rounds=15")
    workspace = workspace_of(params)
    result = run(params, run="one", workspace=workspace)
    overall = result["metrics"]["overall"]
    alone, pooled = _elsewhere(params, workspace)
    assert overall["auc"] > pooled - 0.03
    assert overall["auc"] > max(alone)
    data = store_of(params, workspace).get(f"demo/runs/one/{keys.model(15)}")
    model = decode(data, kind="model")
    assert tree_count(model) == 15 * 3 * 2 * 3
    assert to_xgboost(model).num_boosted_rounds() == 15 * 3 * 2
    trees = json.loads(tree_bytes(model))
    assert any(tree["categories"] for tree in trees), "categories are split on"


@pytest.mark.parametrize("strategy", ["bagging", "cyclic"])
def test_a_process_per_step_publishes_the_same_bytes(
    mixed: Callable[..., Params],
    workspace_of: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
) -> None:
    """One process, sites side by side; and steps that start from nothing with other threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    params = mixed(f"model.trees.strategy={strategy}", *SAMPLED)
    together, apart = workspace_of(params, "together"), workspace_of(params, "apart")
    shutil.rmtree(apart)
    copy_workspace(together, apart)
    run(params, run="one", workspace=together)
    code = """
import json, shutil, sys
from dataclasses import replace
from pathlib import Path
from folkmoot.params import Params
from pipelines.coordinator.open_round import open_run
from pipelines.hosts.execute import execute, store_of
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of
import site_tasks.margins
site_tasks.margins.ROWS_PER_THREAD = 1
params = Params.model_validate_json(sys.stdin.read())
workspace = Path(sys.argv[1])
contract = contract_for(params)
for number, step in enumerate(plan_of(params, contract)):
    context = open_run(params, contract, roster_for(workspace), "one",
                       store_of(params, workspace), workspace)
    context.cache.update(threads=1 + number % 3, single_step=True)
    execute(step, context)
    if number % 2:
        for folder in workspace.glob("sites/*/private/work/margins"):
            shutil.rmtree(folder)
"""
    subprocess.run(
        [sys.executable, "-c", code, str(apart)],
        input=params.model_dump_json(),
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "3"},
    )
    assert published(together, "one") == published(apart, "one")


def test_early_stopping_ends_the_rounds(
    mixed: Callable[..., Params], workspace_of: Workspace
) -> None:
    params = mixed("model.trees.rounds=30", "model.trees.early_stopping.tolerance=0.05")
    result: dict[str, Any] = run(params, run="one", workspace=workspace_of(params))
    assert 3 <= result["rounds"] < 30
