"""diffprivlib's estimators at a site: what they learn, what they read, what they cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import PrivacyError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import parse_params
from folkmoot.plan import keys
from folkmoot.wire import decode
from site_tasks.train_local_dp import fit_classes, fit_numbers, no_leak

ONES = np.ones(3)
WEIGHTS = np.array([2.0, -1.0, 0.5])


@pytest.fixture(scope="module")
def rows() -> Any:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4000, 3))
    score = x @ WEIGHTS + 0.3
    return x, score, (score + rng.logistic(size=4000) > 0).astype(np.int64)


def test_without_noise_it_is_scikit_learn(rows: Any) -> None:
    """At an epsilon beyond meaning the noise is gone: ridge logistic regression is left."""
    from sklearn.linear_model import LogisticRegression

    x, _, y = rows
    w, spent = fit_classes(x, y, ONES, 2, epsilon=1e8, l2=1.0)
    assert spent == 1e8
    constant = np.column_stack([x, np.ones(len(x))])
    public = np.array([[0, 0, 0, 1.0]] * 2)  # one row per class at the centre
    plain = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=1000)
    plain.fit(np.vstack([constant, public]), np.append(y, [0, 1]))
    np.testing.assert_allclose(w, plain.coef_, atol=1e-4)


def test_least_squares_without_noise_is_exact(rows: Any) -> None:
    x, score, _ = rows
    w, spent = fit_numbers(x, score / 4, ONES, epsilon=1e9, l2=0.0)
    assert spent == 1e9
    np.testing.assert_allclose(w[0] * 4, [*WEIGHTS, 0.3], atol=1e-5)


def test_it_learns_at_a_useful_epsilon(rows: Any) -> None:
    x, score, y = rows
    w, _ = fit_classes(x, y, ONES, 2, epsilon=2.0, l2=1.0)
    assert np.corrcoef(x @ w[0, :3], score)[0, 1] > 0.9
    w, _ = fit_numbers(x, score / 4, ONES, epsilon=5.0, l2=0.0)
    assert np.corrcoef(x @ w[0, :3], score)[0, 1] > 0.9


@pytest.mark.parametrize("fit", ["classes", "numbers"])
def test_noise_is_the_systems_and_not_numpys(rows: Any, fit: str) -> None:
    """The global generator of numpy, seeded, must not decide the noise."""
    x, score, y = rows
    draws = []
    for _ in range(2):
        np.random.seed(0)
        if fit == "classes":
            draws.append(fit_classes(x, y, ONES, 2, epsilon=1.0, l2=1.0)[0])
        else:
            draws.append(fit_numbers(x, score / 4, ONES, epsilon=1.0, l2=0.0)[0])
    assert np.abs(draws[0] - draws[1]).max() > 1e-6


def test_a_seed_repeats_for_studies(rows: Any) -> None:
    x, _, y = rows
    one, two = (fit_classes(x, y, ONES, 2, epsilon=1.0, l2=1.0, random_state=3)[0] for _ in "12")
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_that_is_absent_changes_neither_shape_nor_success(rows: Any, classes: int) -> None:
    """Which classes a site holds must not show in the shape of what it releases."""
    x, _, _ = rows
    w, spent = fit_classes(x[:50], np.zeros(50, np.int64), ONES, classes, epsilon=1.0, l2=1.0)
    assert w.shape == (1 if classes == 2 else 3, 4)
    assert spent == 1.0
    assert np.isfinite(w).all()


def test_tiny_data_and_tiny_epsilon_stay_finite() -> None:
    x = np.zeros((1, 3))
    for epsilon in (1e-3, 0.1):
        assert np.isfinite(fit_numbers(x, np.zeros(1), ONES, epsilon=epsilon, l2=0.0)[0]).all()
        w, _ = fit_classes(x, np.zeros(1, np.int64), ONES, 2, epsilon=epsilon, l2=0.0)
        assert np.isfinite(w).all()


def test_a_leak_warning_is_an_error() -> None:
    from diffprivlib.models import LogisticRegression

    with pytest.raises(PrivacyError) as caught, no_leak():
        LogisticRegression(epsilon=1.0).fit(np.eye(4), [0, 1, 0, 1])
    assert caught.value.code == "privacy.mechanism"


def test_the_library_gets_rows_of_norm_one_and_no_intercept(
    rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings under which objective perturbation's proof holds for diffprivlib's code."""
    import diffprivlib.models

    seen: list[Any] = []

    class Watched(diffprivlib.models.LogisticRegression):  # type: ignore[misc]
        def fit(self, x: Any, y: Any, sample_weight: Any = None) -> Any:
            seen.append((self.data_norm, self.fit_intercept, np.linalg.norm(x, axis=1).max()))
            return super().fit(x, y, sample_weight)

    monkeypatch.setattr(diffprivlib.models, "LogisticRegression", Watched)
    bound = np.array([3.0, 1.0, 9.0])
    corner = np.vstack([rows[0] * bound, bound])
    labels = np.append(rows[2], 1)
    fit_classes(corner, labels, bound, 2, epsilon=1.0, l2=1.0)
    ((norm, intercept, longest),) = seen
    assert (norm, intercept) == (1.0, False)
    assert longest == pytest.approx(1.0, abs=1e-12)


def lower_bound(epsilon: float, runs: int = 400) -> float:
    """Empirical epsilon (95 %) of ``fit_classes`` between the two farthest neighbours there are."""
    from scipy import stats

    x = np.ones((1, 3))
    score = [
        np.array(
            [
                fit_classes(x, np.array([label]), ONES, 2, epsilon=epsilon, l2=1.0)[0].sum()
                for _ in range(runs)
            ]
        )
        for label in (0, 1)
    ]
    cut = np.median(np.concatenate(score))  # symmetric, so the threshold is not tuned
    hits, false = int((score[1] > cut).sum()), int((score[0] > cut).sum())
    low = stats.beta.ppf(0.025, hits, runs - hits + 1)
    high = stats.beta.ppf(0.975, false + 1, runs - false)
    return float(np.log(low / high))


def test_an_audit_stays_below_the_claim_and_has_teeth() -> None:
    assert lower_bound(1.0) <= 1.0
    assert lower_bound(20.0) > 1.0  # what it would say of noise far too small for a claim of 1


OVERRIDES = [
    "model.linear.strategy=local_dp",
    "model.linear.rounds=1",
    "privacy.mechanism=diffprivlib",
    "privacy.epsilon=2.0",
    "data.scaling=bounds",
    "aggregation.weighting=uniform",
    "tracking.enabled=false",
]


@pytest.mark.parametrize("recipe", ["breast_cancer", "diabetes"])
def test_a_federation_trains_once_and_pays_once(
    workspace_of: Callable[..., Path], recipe: str
) -> None:
    from pipelines.hosts.embedded import run
    from site_tasks.home import SiteHome
    from site_tasks.release import open_ledger

    params = parse_params({}, [*OVERRIDES, f"data.recipe={recipe}"])
    workspace = workspace_of(params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = run(params, run="r", workspace=workspace)
    assert result["private"] is True
    for site in params.federation.members:
        assert result["privacy"][site]["epsilon"] == 2.0
        ledger = open_ledger(SiteHome.find(site, workspace))
        assert ledger.verify() >= 4
        assert ledger.spent(1e-5) == (2.0, "sum")
    store = ExchangeStore(workspace / "exchange")
    model = decode(store.get(f"demo/runs/r/{keys.model(1)}"))
    assert np.isfinite(model.arrays["coef"]).all()
    assert np.abs(model.arrays["coef"]).max() > 0


def test_a_record_that_moves_several_rows_costs_no_more(
    workspace_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Suppression of small classes makes one record reach k rows: training gets epsilon / k."""
    import site_tasks.train_local_dp as module
    from pipelines.hosts.embedded import run
    from site_tasks.home import SiteHome
    from site_tasks.release import open_ledger

    asked: list[float] = []

    def watched(*arguments: Any, epsilon: float, **more: Any) -> Any:
        asked.append(epsilon)
        return fit_classes(*arguments, epsilon=epsilon, **more)

    monkeypatch.setattr(module, "fit_classes", watched)
    coarse = "anonymisation.levels={age: 5, sex: 1, district: 2}"
    synthetic = ["data.recipe=synthetic", "data.rows=400", "data.columns=3"]
    params = parse_params({}, [*OVERRIDES, *synthetic, coarse, "anonymisation.k=4"])
    workspace = workspace_of(params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = run(params, run="r", workspace=workspace)
    assert asked == [0.5] * len(params.federation.members)
    for site in params.federation.members:
        assert result["privacy"][site]["epsilon"] == 2.0
        assert open_ledger(SiteHome.find(site, workspace)).spent(1e-5) == (2.0, "sum")
