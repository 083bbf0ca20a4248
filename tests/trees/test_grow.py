"""Boosting steps at a site: the same as XGBoost's own, and the same bytes wherever they run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from folkmoot.errors import ConfigError
from folkmoot.models.tree_format import dump_trees, strip
from folkmoot.models.trees import OBJECTIVES
from folkmoot.params import Trees, parse_params
from site_tasks import boosting, device
from site_tasks.boosting import gradients, grow, on_grid

from .conftest import TYPES, World, rows_of

TASKS = ("binary", "multiclass", "regression")


def zeros(task: str, n: int) -> NDArray[np.float32]:
    return np.zeros((n, 3) if task == "multiclass" else n, np.float32)


def quantiles(x: NDArray[np.float64], threads: int = 1, **more: Any) -> xgboost.QuantileDMatrix:
    return xgboost.QuantileDMatrix(x, feature_types=list(TYPES), nthread=threads, **more)


@pytest.mark.parametrize("task", TASKS)
def test_steps_equal_xgboost(task: str) -> None:
    """Five steps from margin 0 predict as five rounds of ``xgboost.train`` do."""
    x, y = rows_of(task, 1500, 1)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(x))
    settings = Trees(trees_per_round=5, max_depth=4, gamma=0.1, reg_alpha=0.05)
    matrix = quantiles(x, weight=weights)
    found = grow(matrix, y, weights, zeros(task, len(x)), settings, task, seed=0, n_threads=1)
    params: dict[str, Any] = {
        "objective": OBJECTIVES[task],
        "base_score": 0.5 if task == "binary" else 0.0,
        "eta": 0.3,
        "max_depth": 4,
        "gamma": 0.1,
        "reg_alpha": 0.05,
    }
    if task == "multiclass":
        params["num_class"] = 3
    own = xgboost.train(params, quantiles(x, label=y, weight=weights), 5)
    expected = json.loads(bytes(own.save_raw("json")))
    trees = expected["learner"]["gradient_booster"]["model"]["trees"]
    assert len(found) == len(trees)
    for mine, theirs in zip(found, trees, strict=True):
        assert mine["split_indices"] == theirs["split_indices"]
        assert mine["left_children"] == theirs["left_children"]
        assert mine["categories"] == theirs["categories"]
        np.testing.assert_allclose(
            mine["split_conditions"], theirs["split_conditions"], rtol=2e-4, atol=2e-5
        )


@pytest.mark.parametrize("task", TASKS)
def test_threads_change_no_byte(task: str) -> None:
    x, y = rows_of(task, 4000, 2)
    settings = Trees(trees_per_round=3, subsample=0.7, colsample_bytree=0.6)
    found = [
        grow(
            quantiles(x, threads),
            y,
            np.linspace(0.1, 3.0, len(x)),
            zeros(task, len(x)),
            settings,
            task,
            seed=5,
            n_threads=threads,
        )
        for threads in (1, 2, 3, 5)
    ]
    texts = {dump_trees([strip(tree) for tree in trees]) for trees in found}
    assert len(texts) == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_in_blocks_give_the_same_bytes_on_any_threads(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, weighted: bool
) -> None:
    """Several blocks are sketched one after the other, whatever the number of threads."""
    monkeypatch.setattr(boosting, "_BLOCK", 300)
    prepared = world("binary", rows=2000, weighted=weighted).prepared["a"]
    settings = Trees(trees_per_round=2, subsample=0.8, max_bin=32)
    y, w = prepared.labels("train"), prepared.weights("train")
    found = set()
    for threads in (1, 2, 3):
        matrix = boosting.binned(prepared, 32, threads)
        assert (matrix.num_row(), matrix.num_col()) == (2000, 5)
        trees = grow(
            matrix, y, w, zeros("binary", 2000), settings, "binary", seed=1, n_threads=threads
        )
        found.add(dump_trees([strip(tree) for tree in trees]))
    assert len(found) == 1


def test_a_site_without_the_gpu_warns_and_grows_the_same_trees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = rows_of("binary", 300, 1)
    start, matrix = zeros("binary", 300), quantiles(x)
    own = grow(matrix, y, None, start, Trees(), "binary", seed=0, n_threads=1)
    monkeypatch.setattr(device, "gpus", lambda: 1)
    with pytest.warns(RuntimeWarning, match="no GPU of number 3: trees are grown on the CPU"):
        found = grow(
            matrix, y, None, start, Trees(device="cuda:3"), "binary", seed=0, n_threads=1
        )  # fmt: skip
    assert found == own
    passed = boosting._xgboost_params(Trees(device="cuda:0"), "binary", start, 0, 1)
    assert passed["device"] == "cuda:0"
    monkeypatch.setattr(device, "gpus", lambda: 0)
    with pytest.warns(RuntimeWarning, match="no GPU that"):
        assert device.usable_device("cuda") == "cpu"
    monkeypatch.setattr(xgboost, "build_info", dict)
    with pytest.warns(RuntimeWarning, match="without CUDA"):
        assert device.usable_device("cuda") == "cpu"


def test_cudas_driver_is_asked_and_none_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.gpus() >= 0

    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(device.ctypes, "CDLL", absent)
    assert device.gpus() == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "metal"}, "device"),
        ({"device": "cuda", "strategy": "summed_histograms"}, "bagging or cyclic"),
    ],
)
def test_devices_that_nothing_runs_on_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_params({"model": {"trees": values}})


def test_sampling_follows_the_seed() -> None:
    x, y = rows_of("binary", 1000, 3)
    settings = Trees(subsample=0.5, colsample_bytree=0.5)
    matrix = quantiles(x)
    one, again, other = (
        grow(matrix, y, None, zeros("binary", len(x)), settings, "binary", seed=s, n_threads=1)
        for s in (1, 1, 2)
    )
    assert one == again
    assert one != other


@pytest.mark.parametrize("scale", [1e-12, 1.0, 3e7])
def test_sums_on_the_grid_are_exact(scale: float) -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=50_001) * scale * rng.choice([1.0, 1e-6], 50_001)
    rounded = on_grid(values.astype(np.float32)).astype(np.float64)
    sums = {float(np.cumsum(rng.permutation(rounded))[-1]) for _ in range(20)}
    assert len(sums) == 1
    assert np.abs(rounded - values).max() <= 2.0**-24 * np.abs(values).max()


def test_without_the_grid_sums_depend_on_the_order() -> None:
    values = np.random.default_rng(4).normal(size=50_001)
    rng = np.random.default_rng(5)
    assert len({float(np.cumsum(rng.permutation(values))[-1]) for _ in range(20)}) > 1


def test_grid_of_nothing() -> None:
    assert not on_grid(np.zeros(5, np.float32)).any()
    assert on_grid(np.zeros(0, np.float32)).shape == (0,)


def _loss(task: str, margins: NDArray[np.float64], y: NDArray[Any]) -> NDArray[np.float64]:
    if task == "regression":
        return np.asarray((margins - y) ** 2 / 2)
    if task == "binary":
        return np.asarray(np.logaddexp(0, margins) - y * margins)
    top = np.log(np.exp(margins).sum(axis=1))
    return np.asarray(top - margins[np.arange(len(y)), y])


@pytest.mark.parametrize("task", TASKS)
def test_gradients_are_derivatives(task: str) -> None:
    rng = np.random.default_rng(6)
    margins = rng.normal(size=(40, 3) if task == "multiclass" else 40)
    y = rng.integers(0, 3 if task == "multiclass" else 2, 40)
    grad, hess = gradients(task, margins, y)
    for k in range(3 if task == "multiclass" else 1):
        step = np.zeros_like(margins)
        step[..., k] = 1e-4
        if task != "multiclass":
            step[:] = 1e-4
        up, mid, down = (_loss(task, margins + s * step, y) for s in (1, 0, -1))
        first, second = (up - down) / 2e-4, (up - 2 * mid + down) / 1e-8
        mine = (grad[:, k], hess[:, k]) if task == "multiclass" else (grad, hess)
        np.testing.assert_allclose(mine[0], first, atol=1e-6)
        # XGBoost bounds the softmax Hessian by twice its diagonal.
        np.testing.assert_allclose(mine[1], second * (2 if task == "multiclass" else 1), atol=1e-5)


def test_weights_count_as_repeated_rows() -> None:
    """Integer weights give the trees of repeated rows (few distinct values: equal cuts)."""
    rng = np.random.default_rng(7)
    x = rng.integers(0, 5, (400, 5)).astype(float)
    x[:, 4] %= 3
    y = (x[:, 0] + x[:, 2] > 4).astype(np.int64) ^ (rng.random(400) < 0.1)
    weights = rng.integers(1, 4, 400)
    repeated = np.repeat(np.arange(400), weights)
    settings = Trees(max_depth=3)
    args = (settings, "binary")
    one = grow(
        quantiles(x, weight=weights.astype(float)),
        y,
        weights.astype(float),
        zeros("binary", 400),
        *args,
        seed=0,
        n_threads=1,
    )
    two = grow(
        quantiles(x[repeated]),
        y[repeated],
        None,
        zeros("binary", len(repeated)),
        *args,
        seed=0,
        n_threads=1,
    )
    assert one[0]["split_indices"] == two[0]["split_indices"]
    assert one[0]["sum_hessian"] == two[0]["sum_hessian"]
    np.testing.assert_allclose(one[0]["split_conditions"], two[0]["split_conditions"], rtol=1e-6)
