"""Embedded host, XGBoost bagging, 200,000 x 28 rows over 4 sites, 20 rounds, depth 6.

Against ``xgboost.train`` of as many trees (80) on the pooled training rows, in the same process, in
turn.  Both times begin with the encoded rows: binning is inside both.  Neither evaluates on the way
(``aggregation.evaluate_every: 0``); the federation also signs, checks, merges and writes down every
round, which pooled training has no need of.  A last run evaluates the global model on 50,000
held-out rows in every round, as is the default, to show what that costs.  Rows are synthetic,
with the shape of HIGGS (21 measured and 7
derived features, classes that overlap).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xgboost
import yaml
from numpy.typing import NDArray

from benchmarks.report import row
from folkmoot import metrics
from folkmoot.models.trees import usable_cores
from folkmoot.params import Params, parse_params
from pipelines.hosts.embedded import run

SITES = ["site-a", "site-b", "site-c", "site-d"]
ROWS, HELD_OUT, FEATURES, ROUNDS = 200_000, 50_000, 28, 20
REPEATS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        params, workspace = federation(Path(folder))
        x, y = pooled_rows(params, workspace, "train")
        held_out = pooled_rows(params, workspace, "test")
        times: list[tuple[float, float]] = []
        aucs: list[tuple[float, float]] = []
        for number in range(REPEATS + 1):  # the first warms up both
            result = run(params, run=f"bench-{number}", workspace=workspace)
            federated = result["seconds"]["first_round"] + result["seconds"]["rounds"]
            began = time.perf_counter()
            booster = pooled(x, y)
            alone = time.perf_counter() - began
            sys.stdout.write(f"federated {federated:.2f} s, pooled {alone:.2f} s\n")
            times.append((federated, alone))
            counts = metrics.count("binary", held_out[1], booster.inplace_predict(held_out[0]), 2)
            pooled_auc = metrics.metrics("binary", counts)["auc"]
            aucs.append((result["metrics"]["overall"]["auc"], pooled_auc))
        watched = run(evaluating(params), run="bench-evaluating", workspace=workspace)["seconds"]
    ratio = statistics.median(federated / alone for federated, alone in times[1:])
    federated, alone = (statistics.median(t[i] for t in times[1:]) for i in (0, 1))
    row(
        "embedded, XGBoost bagging, 200,000 × 28 rows, 4 sites, 20 rounds, depth 6, "
        "against xgb.train of 80 trees on pooled rows",
        f"{ratio:.2f} × ({federated:.2f} s, {alone:.2f} s)",
        "≤ 1.3 ×",
        met=ratio <= 1.3,
    )
    seconds = watched["first_round"] + watched["rounds"]
    row("the same, evaluated in every round", f"{seconds / alone:.2f} ×", "", met=None)
    row(
        "the same: AUC on held-out rows, federated (20 averaged steps) and pooled (80 steps)",
        f"{aucs[-1][0]:.4f}, {aucs[-1][1]:.4f}",
        "",
        met=None,
    )


def pooled(x: NDArray[np.float64], y: NDArray[np.int64]) -> xgboost.Booster:
    """As many trees as the federation grows, on all training rows."""
    matrix = xgboost.QuantileDMatrix(x, y)
    settings = {"objective": "binary:logistic", "tree_method": "hist", "max_depth": 6, "eta": 0.3}
    threads = {"nthread": usable_cores()}
    return xgboost.train(settings | threads, matrix, ROUNDS * len(SITES))


def evaluating(params: Params) -> Params:
    """The same, with the global model evaluated in every round."""
    every = params.aggregation.model_copy(update={"evaluate_every": 1})
    return params.model_copy(update={"aggregation": every})


def federation(folder: Path, rows: int = ROWS) -> tuple[Params, Path]:
    """Four sites with their rows, prepared by a first round."""
    import pandas as pd

    x, y = higgs_like(rows + HELD_OUT)
    names = [f"x{j:02d}" for j in range(FEATURES)]
    frame = pd.DataFrame(x, columns=names)
    frame["signal"] = np.where(y == 1, "yes", "no")
    # The contract's split keeps the number of training rows exactly.
    frame["part"] = np.where(np.arange(len(frame)) < rows, "train", "test")
    frame.to_parquet(folder / "rows.parquet")
    columns = [{"name": name, "bounds": [-50.0, 50.0]} for name in names]
    label = {"name": "signal", "role": "label", "type": "category", "categories": ["no", "yes"]}
    part = {"name": "part", "role": "split", "type": "category", "categories": ["train", "test"]}
    contract = {"name": "bench", "task": "binary", "columns": [*columns, label, part]}
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract))
    params = parse_params(
        {
            "federation": {"sites": SITES},
            "data": {
                "recipe": "parquet",
                "path": str(folder / "rows.parquet"),
                "contract": str(folder / "contract.yaml"),
            },
            "model": {"kind": "trees", "trees": {"rounds": ROUNDS, "max_depth": 6}},
            "aggregation": {"evaluate_every": 0},
            "tracking": {"enabled": False},
        }
    )
    workspace = folder / "workspace"
    first = params.model_copy(
        update={
            "model": params.model.model_copy(
                update={"trees": params.model.trees.model_copy(update={"rounds": 1})}
            )
        }
    )
    run(first, run="prepare", workspace=workspace)
    return params, workspace


def higgs_like(n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """21 normal features, 7 products and sums of them; a label that overlaps."""
    rng = np.random.default_rng(28)
    measured = rng.normal(size=(n, 21))
    pairs = rng.permutation(21)[:14].reshape(7, 2)
    derived = measured[:, pairs[:, 0]] * measured[:, pairs[:, 1]] + 0.5 * rng.normal(size=(n, 7))
    x = np.hstack([measured, derived])
    logit = derived[:, :4].sum(axis=1) + np.sin(2 * measured[:, 0]) + measured[:, 1] ** 2 - 1
    return np.clip(x, -50, 50), (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)


def pooled_rows(
    params: Params, workspace: Path, part: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The very rows that the sites train on, in one array."""
    from pipelines.hosts.execute import open_context, store_of
    from site_tasks.home import SiteHome
    from site_tasks.prepared import load_prepared

    context = open_context(
        "prepare", params.federation.name, store_of(params, workspace), workspace
    )
    found = [load_prepared(context, SiteHome.find(site, workspace)) for site in SITES]
    x = np.concatenate([p.matrix(part) for p in found])  # type: ignore[arg-type]
    return x, np.concatenate([p.labels(part) for p in found])  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
