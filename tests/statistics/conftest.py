"""A federation whose people are known, and partly the same at several sites."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.params import Params, parse_params

SITES = ["site-a", "site-b", "site-c", "site-d"]
CONTRACT = """
name: visits
version: 1
task: binary
columns:
  - {name: person, role: direct_identifier, type: text}
  - {name: age, type: integer, bounds: [0, 100]}
  - {name: pressure, type: number, bounds: [60, 240], missing: true}
  - {name: sex, type: category, categories: [female, male, other]}
  - {name: ill, role: label, type: category, categories: [healthy, ill]}
"""
ALL = ["categories", "classes", "histogram", "moments", "quantiles"]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``visits.csv`` and its contract: 600 visits of 300 people."""
    folder = tmp_path_factory.mktemp("visits")
    rng = np.random.default_rng(7)
    person = rng.integers(0, 300, 600)
    pressure = np.round(rng.normal(130, 25, 600).clip(60, 240), 3)
    pressure[rng.random(600) < 0.05] = np.nan
    ill = rng.random(600) < 1 / (1 + np.exp(-(np.nan_to_num(pressure, nan=130) - 130) / 15))
    frame = pd.DataFrame(
        {
            "person": [f"Nobody-{n:04d}-Planted" for n in person],
            "age": rng.integers(18, 95, 600),
            "pressure": pressure,
            "sex": np.where(rng.random(600) < 0.5, "female", "male"),
            "ill": np.where(ill, "ill", "healthy"),
        }
    )
    frame.to_csv(folder / "visits.csv", index=False)
    (folder / "contract.yaml").write_text(CONTRACT)
    return folder


@pytest.fixture(scope="session")
def asking(source: Path) -> Callable[..., Params]:
    """Params of a run of statistics: ``asking(ask, **statistics, sections=...)``."""

    def make(ask: list[str], *, sections: dict[str, Any] | None = None, **more: Any) -> Params:
        values: dict[str, Any] = {
            "federation": {"sites": SITES, "quorum": 3},
            "data": {
                "recipe": "csv",
                "path": str(source / "visits.csv"),
                "contract": str(source / "contract.yaml"),
            },
            "aggregation": {"protection": "masks", "rows_limit": 10_000},
            "tracking": {"enabled": False},
            "statistics": {"active": True, "ask": ask, "minimum_cell": 3, "bins": 16, **more},
        }
        for section, inner in (sections or {}).items():
            values[section] = {**values.get(section, {}), **inner}
        return parse_params(json.loads(json.dumps(values)))

    return make


def tables(workspace: Path) -> dict[str, pd.DataFrame]:
    """Every site's rows."""
    found = {}
    for site in SITES:
        found[site] = pd.read_parquet(workspace / "sites" / site / "data" / "dataset.parquet")
    return found


def ports(count: int) -> list[int]:
    """Free ports of this machine."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
