"""A contract with every role, rows that fit it, and a real site to prepare them at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.contract import Contract
from folkmoot.exchange import ExchangeStore
from folkmoot.params import parse_params
from folkmoot.plan import RunContext, Step, keys
from pipelines.hosts.execute import execute
from site_tasks import dataset
from site_tasks.home import SiteHome
from site_tasks.settings import Permissions
from tests.conftest import agreed, copy_workspace

SITE = "site-a"
REGIONS = ["north", "east", "south", "west"]
COLUMNS: list[dict[str, Any]] = [
    {"name": "patient", "role": "direct_identifier", "type": "text"},
    {
        "name": "age",
        "role": "quasi_identifier",
        "type": "integer",
        "bounds": [18, 90],
        "hierarchy": {"widths": [5, 10, 40]},
    },
    {
        "name": "region",
        "role": "quasi_identifier",
        "type": "category",
        "categories": REGIONS,
        "missing": True,
        "hierarchy": {
            "levels": [
                {"north": "upper", "east": "lower", "south": "lower", "west": "upper"},
                {"upper": "*", "lower": "*"},
            ]
        },
    },
    {"name": "smoker", "role": "sensitive", "type": "boolean"},
    {"name": "grade", "type": "integer", "categories": ["1", "2", "3"]},
    {"name": "dose", "type": "number", "bounds": [0, 100]},
    {"name": "marker", "type": "number", "bounds": [-5, 5], "missing": True},
    {"name": "outcome", "role": "label", "type": "category", "categories": ["no", "yes"]},
]


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract.model_validate({"name": "clinic", "task": "binary", "columns": COLUMNS})


def rows(n: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    region = rng.choice(np.array([*REGIONS, None], dtype=object), n)
    marker = rng.normal(size=n).clip(-5, 5)
    marker[rng.random(n) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "patient": [f"P-{i:05d}" for i in range(n)],
            "age": rng.integers(18, 91, n),
            "region": pd.Series(region, dtype="str"),
            "smoker": rng.random(n) < 0.3,
            "grade": rng.integers(1, 4, n),
            "dose": rng.uniform(0, 100, n),
            "marker": marker,
            "outcome": np.array(["no", "yes"])[rng.integers(0, 2, n)],
        }
    )


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_parquet(path, index=False)
    return path


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the tests span many chunks."""
    monkeypatch.setattr("site_tasks.table.CHUNK", 17)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("prepare") / "workspace"
    permitted = Permissions(differencing=True)  # these tests go from version to version
    home = SiteHome.create(
        workspace / "sites" / SITE, SITE, federations=["demo"], permissions=permitted
    )
    dataset.add(home, rows(), "Add the rows")
    return workspace


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Path:
    return copy_workspace(template, tmp_path / "workspace")


@pytest.fixture
def context_of(workspace: Path, contract: Contract) -> Callable[..., RunContext]:
    """Context of a run at the site: ``context_of("run-1", "model.kind=trees")``."""

    def make(run: str, *overrides: str) -> RunContext:
        sites = ["site-a", "site-b"]
        values = {"federation": {"sites": sites, "quorum": 1}}
        roster = agreed(SiteHome.find(SITE, workspace), sites)
        return RunContext(
            run,
            parse_params(values, overrides),
            contract,
            roster,
            ExchangeStore(workspace / "exchange"),
            workspace,
        )

    return make


def step_of(body: str) -> Step:
    outputs = (keys.statistics(SITE),) if body == "encode" else ()
    return Step(f"prepare/{body}/{SITE}", f"site.{body}", SITE, 0, outputs=outputs)


def prepare(context: RunContext) -> None:
    """All four steps, as a host runs them."""
    for body in ("version", "validate", "anonymise", "encode"):
        execute(step_of(body), context)
