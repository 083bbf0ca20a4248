"""``folkmoot local`` on a simulated site: JSON out, the ledger charged, ceilings kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from folkmoot.cli.app import app
from folkmoot.errors import FolkmootError
from folkmoot.params import parse_params
from pipelines.simulation import ensure_sites
from site_tasks.home import SiteHome
from site_tasks.local_library import STATISTICS
from site_tasks.release import open_ledger
from site_tasks.settings import save_settings

SETTINGS = (
    "federation: {name: demo, sites: [site-a, site-b]}\n"
    "data: {recipe: breast_cancer, scaling: bounds, holdout: {by: content}}\n"
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    (folder / "params.yaml").write_text(SETTINGS, encoding="utf-8")
    values = {
        "federation": {"name": "demo", "sites": ["site-a", "site-b"]},
        "data": {"recipe": "breast_cancer"},
    }
    ensure_sites(parse_params(values), folder)
    return folder


def local(workspace: Path, *words: str) -> Any:
    place = ["--workspace", str(workspace), "--params", str(workspace / "params.yaml")]
    done = CliRunner().invoke(app, ["local", *words, *place])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def spent(home: SiteHome) -> list[float]:
    entries = open_ledger(home).entries()
    return [e.content["charge"][0]["epsilon"] for e in entries if e.kind == "reserve"]


def test_statistics_and_models_are_numbers_with_their_price(workspace: Path) -> None:
    home = SiteHome.find("site-a", workspace)
    mean = json.loads(
        local(workspace, "statistic", "site-a", "mean", "mean_radius", "--epsilon", "9")
    )
    assert mean["result"]["value"] == pytest.approx(14.1, abs=1.0)
    assert mean["privacy"]["epsilon"] == 9.0
    middle = (
        "statistic",
        "site-a",
        "quantile",
        "mean_radius",
        "--epsilon",
        "9",
        "--quantile",
        "0.5",
    )
    assert json.loads(local(workspace, *middle))["result"]["value"] == pytest.approx(13.3, abs=1.5)
    bins = ("statistic", "site-a", "histogram", "mean_radius", "--epsilon", "9", "--bins", "4")
    counts = json.loads(local(workspace, *bins))["result"]["counts"]
    assert len(counts) == 4
    for name, option, key in (
        ("GaussianNB", (), "theta"),
        ("PCA", ("--option", "n_components=2"), "components"),
        ("StandardScaler", (), "mean"),
        ("LogisticRegression", ("--option", "l2=0.5"), "coefficients"),
        ("RandomForestClassifier", ("--option", "n_estimators=3"), "trees"),
    ):
        path = workspace / f"{name}.json"
        told = local(workspace, "fit", "site-a", name, "--epsilon", "5", *option, "-o", str(path))
        assert "epsilon 5 was charged" in told
        found = json.loads(path.read_text(encoding="utf-8"))["result"]
        assert found[key]
        assert len(found["features"]) == len(found["lower"]) == 30
    assert spent(home) == [9.0] * len(STATISTICS) + [5.0] * 5
    done = CliRunner().invoke(app, ["ledger", "show", "site-a", "--workspace", str(workspace)])
    assert done.exception is None, done.exception
    assert "diffp" in done.stdout


def test_nothing_is_charged_for_what_is_refused(workspace: Path) -> None:
    home = SiteHome.find("site-b", workspace)
    permissions = home.settings.permissions.model_copy(update={"epsilon_ceiling": 1.0})
    changed = home.settings.model_copy(update={"permissions": permissions})
    save_settings(changed, home.root / "site.toml")
    mean = ("statistic", "site-b", "mean", "mean_radius", "--epsilon")
    for words, code in (
        ((*mean, "1.5"), "privacy.ceiling"),
        ((*mean, "0"), "privacy.mechanism"),
        ((*mean, "nan"), "privacy.mechanism"),
        ((*mean, "inf"), "privacy.mechanism"),
        ((*mean, "1", "--bins", "3"), "config.invalid"),
        (("statistic", "site-b", "mean", "nobody", "--epsilon", "1"), "config.invalid"),
        (("statistic", "site-b", "quantile", "mean_radius", "--epsilon", "1"), "config.invalid"),
        (("fit", "site-b", "LinearRegression", "--epsilon", "1"), "config.invalid"),
        (("fit", "site-b", "KMeans", "--epsilon", "1"), "config.invalid"),
        (("fit", "site-b", "PCA", "--epsilon", "1", "--option", "bounds=1"), "config.invalid"),
        (
            ("fit", "site-b", "PCA", "--epsilon", "1", "--option", "n_components=31"),
            "config.invalid",
        ),
        (("fit", "site-b", "PCA", "--epsilon", "1", "-o", "no/such/file"), "config.missing-file"),
    ):
        with pytest.raises(FolkmootError) as caught:
            local(workspace, *words)
        assert caught.value.code == code, words
    assert spent(home) == []
