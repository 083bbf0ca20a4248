"""Metrics from pooled counts against scikit-learn's on pooled scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from folkmoot import metrics

RNG = np.random.default_rng(7)


def binary(n: int, signal: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    y = RNG.integers(0, 2, n)
    return y, 1 / (1 + np.exp(-(signal * (y - 0.5) + RNG.normal(size=n))))


def test_binary_agrees_with_scikit_learn() -> None:
    y, p = binary(5000)
    counts = metrics.count("binary", y, p, 2)
    found = metrics.metrics("binary", counts)
    assert found["accuracy"] == reference.accuracy_score(y, p > 0.5)
    assert found["brier"] == pytest.approx(reference.brier_score_loss(y, p), rel=1e-12)
    assert found["log_loss"] == pytest.approx(reference.log_loss(y, p), rel=1e-12)
    auc = reference.roc_auc_score(y, p)
    assert abs(found["auc"] - auc) <= metrics.auc_error(counts) < 1e-3
    assert found["pr_auc"] == pytest.approx(reference.average_precision_score(y, p), abs=2e-3)


def test_auc_is_exact_where_scores_are_bins() -> None:
    y, p = binary(3000)
    p = np.floor(p * metrics.BINS) / metrics.BINS
    found = metrics.metrics("binary", metrics.count("binary", y, p, 2))
    assert found["auc"] == pytest.approx(reference.roc_auc_score(y, p), abs=1e-12)
    assert found["pr_auc"] == pytest.approx(reference.average_precision_score(y, p), abs=1e-12)


def test_calibration_error_by_its_definition() -> None:
    y, p = binary(2000)
    expected = 0.0
    for low in range(metrics.CALIBRATION_BINS):
        inside = np.minimum((p * metrics.CALIBRATION_BINS).astype(int), 9) == low
        if inside.any():
            expected += inside.mean() * abs(p[inside].mean() - y[inside].mean())
    found = metrics.metrics("binary", metrics.count("binary", y, p, 2))
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-12)


def test_multiclass_agrees_with_scikit_learn() -> None:
    y = RNG.integers(0, 4, 3000)
    z = RNG.normal(size=(3000, 4)) + 1.5 * np.eye(4)[y]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    counts = metrics.count("multiclass", y, p, 4)
    found = metrics.metrics("multiclass", counts)
    assert found["accuracy"] == reference.accuracy_score(y, p.argmax(axis=1))
    assert found["log_loss"] == pytest.approx(reference.log_loss(y, p), rel=1e-12)
    auc = reference.roc_auc_score(y, p, multi_class="ovr")
    assert abs(found["auc"] - auc) <= metrics.auc_error(counts)
    assert found["brier"] == pytest.approx(
        np.square(p - np.eye(4)[y]).sum(axis=1).mean(), rel=1e-12
    )


def test_regression_agrees_with_scikit_learn_far_from_zero() -> None:
    y = 1e6 + RNG.normal(size=800)
    predicted = y + 0.3 * RNG.normal(size=800)
    found = metrics.metrics("regression", metrics.count("regression", y, predicted, 0, origin=1e6))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(y, predicted), rel=1e-9)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(y, predicted), rel=1e-9)
    assert found["r2"] == pytest.approx(reference.r2_score(y, predicted), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 5), st.sampled_from(["binary", "multiclass", "regression"])
)
def test_pooled_counts_are_the_counts_of_pooled_rows(n: int, sites: int, task: str) -> None:
    rng = np.random.default_rng(n * 10 + sites)
    y = rng.normal(size=n) if task == "regression" else rng.integers(0, 3 - (task == "binary"), n)
    scores = rng.random((n, 3)) if task == "multiclass" else rng.random(n)
    at = rng.integers(0, sites, n)
    parts = [metrics.count(task, y[at == s], scores[at == s], 3) for s in range(sites)]  # type: ignore[arg-type]
    pooled, whole = metrics.combine(parts), metrics.count(task, y, scores, 3)  # type: ignore[arg-type]
    assert pooled.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_allclose(pooled[name], array, rtol=1e-12, atol=1e-12)


def test_what_rows_cannot_define_is_left_out_and_results_are_json() -> None:
    one_class = metrics.metrics("binary", metrics.count("binary", [1, 1], [0.0, 1.0], 2))
    assert not {"auc", "pr_auc"} & one_class.keys()
    assert one_class["accuracy"] == 0.5
    json.dumps(one_class, allow_nan=False)
    constant = metrics.metrics("regression", metrics.count("regression", [2.0, 2.0], [2.0, 1.0], 0))
    assert "r2" not in constant
    assert constant["mae"] == 0.5
    for task in ("binary", "multiclass", "regression"):
        assert metrics.metrics(task, metrics.count(task, [], np.zeros((0, 3)), 3)) == {}  # type: ignore[arg-type]


def test_counts_that_do_not_belong_together_are_refused() -> None:
    y, p = binary(10)
    with pytest.raises(ValueError, match="different tasks"):
        metrics.combine([metrics.count("binary", y, p, 2), metrics.count("regression", y, p, 0)])
    with pytest.raises(ValueError, match="no counts"):
        metrics.combine([])
    three = metrics.count("multiclass", [0], [[1.0, 0, 0]], 3)
    with pytest.raises(ValueError, match="shape"):
        metrics.combine([three, metrics.count("multiclass", [0], [[1.0, 0]], 2)])


def test_combining_leaves_its_input_alone() -> None:
    y, p = binary(10)
    one = metrics.count("binary", y, p, 2)
    metrics.combine([one, one])
    assert one["rows"] == 10
