"""Losses, gradients and Hessians against finite differences and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from site_tasks.linear_loss import gradient, predict, sums

TASKS = [("binary", 1), ("multiclass", 3), ("regression", 1)]


def rows(task: str, classes: int, n: int = 40, d: int = 4) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(n, d))
    y = rng.normal(size=n) if task == "regression" else rng.integers(0, max(2, classes), n)
    return x, y, rng.random(n) + 0.5, rng.normal(size=(classes, d + 1))


@pytest.mark.parametrize(("task", "classes"), TASKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_derivatives_are_those_of_the_loss(task: str, classes: int, weighted: bool) -> None:
    x, y, weights, w = rows(task, classes)
    weights = weights if weighted else None
    found = sums(task, w, [(x, y, weights)])
    np.testing.assert_allclose(found.gradient, gradient(task, w, x, y, weights), rtol=1e-12)
    step = 1e-5
    for k, j in np.ndindex(*w.shape):
        up, down = w.copy(), w.copy()
        up[k, j] += step
        down[k, j] -= step
        above, below = sums(task, up, [(x, y, weights)]), sums(task, down, [(x, y, weights)])
        slope = (above.loss - below.loss) / (2 * step)
        assert found.gradient[k, j] == pytest.approx(slope, rel=1e-6, abs=1e-6)
        curvature = (above.gradient - below.gradient) / (2 * step)
        np.testing.assert_allclose(found.hessian[k, j], curvature, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_chunks_add_up(task: str, classes: int) -> None:
    x, y, weights, w = rows(task, classes)
    whole = sums(task, w, [(x, y, weights)])
    parts = sums(
        task, w, [(x[i : i + 7], y[i : i + 7], weights[i : i + 7]) for i in range(0, 40, 7)]
    )
    assert parts.weight == pytest.approx(weights.sum())
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    np.testing.assert_allclose(parts.gradient, whole.gradient, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(parts.hessian, whole.hessian, rtol=1e-10, atol=1e-12)


def test_integer_weights_are_repeated_rows() -> None:
    x, y, _, w = rows("binary", 1)
    times = np.arange(len(y)) % 3 + 1
    weighted = sums("binary", w, [(x, y, times.astype(float))])
    repeated = sums("binary", w, [(np.repeat(x, times, axis=0), np.repeat(y, times), None)])
    assert weighted.loss == pytest.approx(repeated.loss)
    np.testing.assert_allclose(weighted.hessian, repeated.hessian, rtol=1e-10)


@pytest.mark.parametrize(("task", "classes"), TASKS[:2])
def test_far_from_the_boundary_nothing_overflows(task: str, classes: int) -> None:
    x, y, _, w = rows(task, classes)
    found = sums(task, 1e6 * w, [(x, y, None)])  # warnings are errors here
    assert np.isfinite(found.loss)
    assert np.isfinite(found.hessian).all()
    p = predict(task, 1e6 * w, x)
    assert ((p >= 0) & (p <= 1)).all()


def test_probabilities_sum_to_one() -> None:
    x, _, _, w = rows("multiclass", 3)
    np.testing.assert_allclose(predict("multiclass", w, x).sum(axis=1), 1.0)
