from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from folkmoot.contract import Contract
from folkmoot.features import feature_space
from folkmoot.params import Anonymisation
from site_tasks.statistics import sums


def contract_of(task: str) -> Contract:
    label = {"name": "y", "role": "label", "bounds": [0, 10]}
    if task == "multiclass":
        label = {"name": "y", "role": "label", "type": "category", "categories": ["a", "b", "c"]}
    columns = [{"name": "x", "bounds": [0, 100], "missing": True}, {"name": "z", "bounds": [-1, 1]}]
    return Contract.model_validate({"name": "c", "task": task, "columns": [*columns, label]})


def blocks(x: np.ndarray, y: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray, None]]:
    return [(x[i : i + size], y[i : i + size], None) for i in range(0, len(x), size)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sites_together_equal_pooled_rows(dtype: type) -> None:
    contract = contract_of("multiclass")
    space = feature_space(contract, Anonymisation(), "linear")
    rng = np.random.default_rng(0)
    n = 30_000
    x = np.column_stack([rng.gamma(2, 10, n).clip(0, 100), np.zeros(n), rng.normal(0, 0.2, n)])
    x[rng.random(n) < 0.1, 0] = np.nan
    x[:, 1] = np.isnan(x[:, 0])
    x = x.astype(dtype)
    y = rng.integers(0, 3, n)
    cuts = [0, 100, 7_000, 7_001, n]
    sites = [sums(blocks(x[a:b], y[a:b], 501), space, contract) for a, b in pairwise(cuts)]
    total = {name: sum(site[name] for site in sites) for name in sites[0]}
    mean = space.centre + total["sum"] / total["count"]
    variance = total["square"] / total["count"] - (total["sum"] / total["count"]) ** 2
    pooled = x.astype(np.float64)
    np.testing.assert_allclose(mean, np.nanmean(pooled, axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(variance, np.nanvar(pooled, axis=0), rtol=1e-12)
    assert total["rows"] == n
    assert total["count"][0] == np.count_nonzero(~np.isnan(pooled[:, 0]))
    assert total["class_counts"].tolist() == np.bincount(y).tolist()
    assert {k: v.dtype.str for k, v in sites[0].items()} == {
        "rows": "<i8",
        "count": "<i8",
        "sum": "<f8",
        "square": "<f8",
        "class_counts": "<i8",
    }


def test_regression_labels_and_bounds() -> None:
    contract = contract_of("regression")
    space = feature_space(contract, Anonymisation(), "linear")
    x = np.array([[150.0, 0.0, 0.0], [-50.0, 0.0, 0.0], [np.nan, 1.0, 0.5]])
    y = np.array([1.0, 12.0, 5.0])
    found = sums(blocks(x, y, 2), space, contract)
    assert found["sum"].tolist() == [0.0, -0.5, 0.5]  # 100 - 50 and 0 - 50: clipped to the bounds
    assert found["square"].tolist() == [5000.0, 0.75, 0.25]
    assert found["count"].tolist() == [2, 3, 3]
    assert float(found["label_sum"]) == -4.0 + 5.0 + 0.0
    assert float(found["label_square"]) == 16.0 + 25.0
