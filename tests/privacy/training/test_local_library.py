"""diffprivlib's estimators at one site report into the site's ledger, before noise is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, PrivacyError
from folkmoot.privacy.events import PureDP
from site_tasks.home import SiteHome
from site_tasks.ledger_accountant import TWICE, LedgerAccountant
from site_tasks.local_library import ESTIMATORS, fit, statistic
from site_tasks.prepared import Prepared
from site_tasks.release import open_ledger
from site_tasks.settings import save_settings

N, D = 1500, 3


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    root = tmp_path / "sites" / "site-a"
    SiteHome.create(root, "site-a", federations=["demo"])
    return SiteHome(root)


def agreed(task: str = "binary") -> Contract:
    inputs: list[dict[str, Any]] = [{"name": f"x{i}", "bounds": [-2, 4]} for i in range(D)]
    label: dict[str, Any] = {"name": "y", "role": "label", "bounds": [-3, 3]}
    if task == "binary":
        label = {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]}
    return Contract.model_validate({"name": "c", "task": task, "columns": [*inputs, label]})


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Prepared]:
    from folkmoot.features import feature_space
    from folkmoot.params import Anonymisation

    def make(task: str = "binary", stability: int = 1) -> Prepared:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((N, D))
        x[::50, 2] = np.nan
        signal = x[:, 0] + x[:, 1]
        y = (signal > 0).astype(np.int64) if task == "binary" else np.clip(signal, -3, 3)
        folder = tmp_path / task
        folder.mkdir(exist_ok=True)
        np.save(folder / "train.npy", x)
        np.save(folder / "train-labels.npy", y)
        space = feature_space(agreed(task), Anonymisation(), "linear")
        return Prepared(space, {"train": N, "test": 0}, "f" * 64, "d" * 64, stability, folder)

    return make


def charged(home: SiteHome) -> list[Any]:
    return [
        event
        for entry in open_ledger(home).entries()
        if entry.kind == "reserve"
        for event in entry.content["charge"]
    ]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_learns_and_is_charged_once(
    name: str, home: SiteHome, rows: Callable[..., Prepared]
) -> None:
    task = "regression" if name == "LinearRegression" else "binary"
    prepared = rows(task)
    accountant = LedgerAccountant(home, "study", prepared.fingerprint)
    made = fit(name, prepared, agreed(task), 20.0, accountant)
    assert charged(home) == [PureDP(20.0).to_dict()]
    kinds = [entry.kind for entry in open_ledger(home).entries()]
    assert kinds.count("reserve") == kinds.count("commit") == 1
    if not isinstance(made, np.ndarray):  # a replaced row counts twice in leaves and classes
        assert made.epsilon == (10.0 if name in TWICE else 20.0)
    x, y = np.nan_to_num(np.load(prepared.folder / "train.npy"), nan=1.0), prepared.labels("train")
    if name in {"LogisticRegression", "LinearRegression"}:
        score = ((x - 1) / 3) @ made[0, :-1] + made[0, -1]
        assert np.corrcoef(score, y)[0, 1] > 0.7
    elif name == "StandardScaler":
        assert made.mean_ == pytest.approx(np.clip(x, -2, 4).mean(0), abs=0.1)
    elif name == "PCA":
        assert made.components_.shape == (D, D)
    else:
        assert (made.predict(x) == y).mean() > 0.75


def test_statistics_are_charged_by_stability(home: SiteHome, rows: Callable[..., Prepared]) -> None:
    prepared = rows()
    accountant = LedgerAccountant(home, "study", prepared.fingerprint, stability=3)
    assert statistic("mean", prepared, "x0", 5.0, accountant) == pytest.approx(0.0, abs=0.1)
    middle = statistic("quantile", prepared, "x1", 5.0, accountant, quant=0.5)
    assert middle == pytest.approx(0.0, abs=0.2)
    counts, edges = statistic("histogram", prepared, "x0", 5.0, accountant, bins=6)
    assert edges == pytest.approx(np.arange(-2, 5))
    assert counts.sum() == pytest.approx(N, abs=20)
    assert charged(home) == [PureDP(15.0).to_dict()] * 3


def test_a_ceiling_refuses_before_noise_is_drawn(
    home: SiteHome, rows: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    permissions = home.settings.permissions.model_copy(update={"epsilon_ceiling": 1.0})
    changed = home.settings.model_copy(update={"permissions": permissions})
    save_settings(changed, home.root / "site.toml")
    home = SiteHome(home.root)
    prepared = rows()
    accountant = LedgerAccountant(home, "study", prepared.fingerprint)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("noise was drawn")

    import diffprivlib.models.naive_bayes as library

    monkeypatch.setattr(library, "LaplaceTruncated", never, raising=False)
    monkeypatch.setattr(library, "GeometricTruncated", never, raising=False)
    with pytest.raises(PrivacyError) as caught:
        fit("GaussianNB", prepared, agreed(), 2.0, accountant)
    assert caught.value.code == "privacy.ceiling"
    assert charged(home) == []


def test_a_fit_that_fails_stays_charged(
    home: SiteHome, rows: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffprivlib.models.naive_bayes as library

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(library.GaussianNB, "_update_mean_variance", fail)
    prepared = rows()
    accountant = LedgerAccountant(home, "study", prepared.fingerprint)
    with pytest.raises(RuntimeError):
        fit("GaussianNB", prepared, agreed(), 2.0, accountant)
    assert charged(home) == [PureDP(2.0).to_dict()]


def test_leaks_and_nonsense_are_refused(home: SiteHome, rows: Callable[..., Prepared]) -> None:
    from diffprivlib.models import GaussianNB

    from site_tasks.train_local_dp import no_leak

    prepared = rows()
    accountant = LedgerAccountant(home, "study", prepared.fingerprint)
    with pytest.raises(PrivacyError, match="read a bound from the data"), no_leak():
        GaussianNB(epsilon=1.0).fit(np.ones((4, 2)), np.array([0, 1, 0, 1]))
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises((PrivacyError, ValueError)):
            fit("GaussianNB", prepared, agreed(), bad, accountant)
    for name, options in (
        ("GaussianNB", {"bounds": (0, 1)}),
        ("LinearRegression", {}),
        ("KMeans", {}),
    ):
        with pytest.raises(ConfigError):
            fit(name, prepared, agreed(), 1.0, accountant, **options)
    for name, feature, options in (
        ("mean", "nobody", {}),
        ("histogram", "x0", {"bins": [0, 1]}),
        ("quantile", "x0", {}),
        ("median", "x0", {}),
    ):
        with pytest.raises(ConfigError):
            statistic(name, prepared, feature, 1.0, accountant, **options)
    assert charged(home) == []
