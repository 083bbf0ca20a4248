"""Faults of other anonymisers, tried on whole tables from file to file, recoded either way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.errors import DataError
from folkmoot.generalisation import generalise_numbers
from site_tasks.table import ROW

from .conftest import Anonymise, rows

QUASI = ["age", "region", "weight", "smoker"]
LOCAL: dict[str, Any] = {"recoding": "local", "k": 5}
PUBLIC: dict[str, Any] = {
    "k": 5,
    "levels": {"age": 2, "region": 1, "weight": 2},
    "suppression_limit": 1.0,
}
WAYS = pytest.mark.parametrize("values", [LOCAL, PUBLIC], ids=["local", "public"])


def groups(table: pd.DataFrame) -> Any:
    return table.groupby(QUASI, dropna=False, observed=True)["illness"]


@WAYS
def test_a_shuffled_index_changes_neither_l_nor_t(
    anonymise: Anonymise, values: dict[str, Any]
) -> None:
    frame = rows(400)
    models = {"l_diversity": {"l": 2}, "t_closeness": {"t": 0.4}}
    mixed = frame.set_index(np.random.default_rng(3).permutation(400))
    _, one = anonymise(frame, **values, **models)
    _, two = anonymise(mixed, **values, **models)
    pd.testing.assert_frame_equal(one, two)


@WAYS
def test_t_and_l_that_are_asked_for_hold(anonymise: Anonymise, values: dict[str, Any]) -> None:
    frame = rows(400)
    frame["illness"] = np.where(
        frame["age"] < 50, "a", frame["illness"]
    )  # follows a quasi-identifier
    models = {"l_diversity": {"l": 2}, "t_closeness": {"t": 0.3}}
    _, plain = anonymise(frame, **values)
    _, table = anonymise(frame, **values, **models)
    assert farthest(table) <= 0.3 + 1e-9
    assert groups(table).nunique().min() >= 2
    if values is LOCAL:
        assert farthest(plain) > 0.3  # without the model it is broken


def farthest(table: pd.DataFrame) -> float:
    """Largest distance, with equal steps, between a class and the table."""
    whole = table["illness"].value_counts(normalize=True)
    return max(
        float(
            (of.value_counts(normalize=True).reindex(whole.index, fill_value=0) - whole).abs().sum()
        )
        / 2
        for _, of in groups(table)
    )


@WAYS
def test_rows_with_missing_values_stay_and_are_proven(
    anonymise: Anonymise, values: dict[str, Any]
) -> None:
    frame = rows(300)
    report, table = anonymise(frame, **values)
    assert len(table) == 300 - report.suppressed
    assert groups(table).size().min() >= 5
    if values is LOCAL:
        assert len(table) == 300
    lonely = frame.copy()
    lonely.loc[0, "weight"] = np.nan  # the only one: never a class by itself
    report, table = anonymise(lonely, **values, contract=with_missing())
    assert groups(table).size().min() >= 5
    if values is PUBLIC:
        assert 0 not in set(table[ROW])


def with_missing() -> Any:
    from folkmoot.contract import Contract

    from .conftest import COLUMNS

    columns = [{**c, "missing": True} if c["name"] == "weight" else c for c in COLUMNS]
    return Contract.model_validate({"name": "clinic", "task": "binary", "columns": columns})


@WAYS
def test_neither_the_index_nor_a_class_number_is_written(
    anonymise: Anonymise, values: dict[str, Any]
) -> None:
    frame = rows(100).set_index(pd.Index(range(5000, 5100), name="secret_number"))
    _, table = anonymise(frame, **values)
    assert set(table.columns) - {ROW} == {*QUASI, "illness", "outcome"}
    assert list(table.index) == list(range(len(table)))


def test_a_half_open_interval_does_not_hold_its_end(contract: Any) -> None:
    weight = next(c for c in contract.columns if c.name == "weight")
    low, high = generalise_numbers(np.array([19.999, 20.0]), weight, 1)
    assert (low, high) == (15.0, 25.0)


@WAYS
def test_fewer_rows_than_k_are_refused(anonymise: Anonymise, values: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="4 rows, fewer than k = 5"):
        anonymise(rows(4), **values)
