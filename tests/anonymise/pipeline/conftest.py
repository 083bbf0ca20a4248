"""A small clinic: identifiers, dates, codes, quasi-identifiers of every kind, a sensitive column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.contract import Contract
from folkmoot.params import Anonymisation
from site_tasks.anonymise.job import Job, Report
from site_tasks.anonymise.table import anonymise_table

SECRET = bytes(range(32))
REGIONS = ["north", "east", "south", "west"]
COLUMNS: list[dict[str, Any]] = [
    {"name": "patient", "role": "direct_identifier", "type": "text"},
    {
        "name": "age",
        "role": "quasi_identifier",
        "type": "integer",
        "bounds": [0, 99],
        "missing": True,
        "hierarchy": {"widths": [10, 50]},
    },
    {
        "name": "region",
        "role": "quasi_identifier",
        "type": "category",
        "categories": REGIONS,
        "missing": True,
        "hierarchy": {"levels": [dict.fromkeys(REGIONS, "*")]},
    },
    {
        "name": "weight",
        "role": "quasi_identifier",
        "bounds": [0, 200],
        "hierarchy": {"widths": [10, 200]},
    },
    {"name": "smoker", "role": "quasi_identifier", "type": "boolean"},
    {"name": "illness", "role": "sensitive", "type": "category", "categories": ["a", "b", "c"]},
    {"name": "note", "role": "dropped", "type": "text"},
    {"name": "outcome", "role": "label", "type": "category", "categories": ["no", "yes"]},
]


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract.model_validate({"name": "clinic", "task": "binary", "columns": COLUMNS})


def rows(n: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 100, n).astype(float)
    age[rng.random(n) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "patient": [f"P-{seed}-{i:05d}" for i in range(n)],
            "age": age,
            "region": pd.Series(rng.choice(np.array([*REGIONS, None], object), n), dtype="str"),
            "weight": rng.normal(75, 12, n).clip(0, 200),
            "smoker": rng.random(n) < 0.3,
            "illness": rng.choice(["a", "b", "c"], n),
            "note": "the patient said that all is well",
            "outcome": rng.choice(["no", "yes"], n),
        }
    )


Anonymise = Callable[..., tuple[Report, pd.DataFrame]]


@pytest.fixture
def anonymise(contract: Contract, tmp_path: Path) -> Anonymise:
    """Anonymise a frame; returns report and table."""

    def made(
        frame: pd.DataFrame,
        *,
        series: str | None = None,
        version: str = "v1",
        contract: Contract = contract,
        population: Path | None = None,
        **values: Any,
    ) -> tuple[Report, pd.DataFrame]:
        source, target = tmp_path / "source.parquet", tmp_path / "target.parquet"
        target.unlink(missing_ok=True)
        frame.to_parquet(source, index=False)
        settings = Anonymisation.model_validate(values)
        path = None if series is None else tmp_path / series
        job = Job(source, target, contract, settings, SECRET, version, path, population, "site-a")
        return anonymise_table(job), pd.read_parquet(target)

    return made
