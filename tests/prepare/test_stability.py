"""How far one row of a site reaches: what preparation states, and what it really does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from folkmoot.contract import Contract
from folkmoot.params import Anonymisation
from folkmoot.plan import RunContext
from site_tasks.anonymise.generalise import anonymise
from site_tasks.anonymise.job import Job
from site_tasks.home import SiteHome
from site_tasks.prepared import load_prepared

from .conftest import SITE, prepare, write

SECRET = bytes(range(32))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_row_takes_the_rest_of_its_class_along(tmp_path: Path, k: int) -> None:
    """The bound is reached: a row that leaves a class of k suppresses the k - 1 others."""
    contract = Contract.model_validate(
        {
            "name": "c",
            "task": "regression",
            "columns": [
                {"name": "age", "role": "quasi_identifier", "bounds": [0.0, 100.0]},
                {"name": "y", "role": "label", "bounds": [0.0, 1.0]},
            ],
        }
    )
    settings = Anonymisation(k=k, suppression_limit=1.0)
    frame = pd.DataFrame({"age": [20.0] * k + [30.0] * 9, "y": np.linspace(0, 1, k + 9)})

    told = set()

    def left(rows: pd.DataFrame, name: str) -> int:
        source = write(rows, tmp_path / f"{name}.parquet")
        target = tmp_path / f"{name}-out.parquet"
        report = anonymise(Job(source, target, contract, settings, SECRET))
        told.add(report.stability)
        return report.rows - report.suppressed

    moved = left(frame, "before") - left(frame.iloc[1:], "after")
    assert moved == k
    assert told == {k}


@pytest.mark.parametrize("k", [1, 3])
def test_training_is_told_how_far_a_row_reaches(
    context_of: Callable[..., RunContext], k: int
) -> None:
    levels = "anonymisation.levels={age: 3, region: 2}"
    private = [
        "privacy.mechanism=gaussian",
        "privacy.noise_multiplier=1.0",
        "model.linear.strategy=fedavg",
        "aggregation.weighting=uniform",
        "data.scaling=bounds",
    ]
    context = context_of("r", f"anonymisation.k={k}", levels, *private)
    prepare(context)
    prepared = load_prepared(context, SiteHome.find(SITE, context.workspace))
    assert prepared.stability == k


def test_where_earlier_versions_count_a_row_may_reach_all(
    context_of: Callable[..., RunContext],
) -> None:
    levels = "anonymisation.levels={age: 3, region: 2}"
    context = context_of("r", "anonymisation.k=3", levels)
    prepare(context)
    prepared = load_prepared(context, SiteHome.find(SITE, context.workspace))
    assert prepared.stability == sum(prepared.rows.values())
