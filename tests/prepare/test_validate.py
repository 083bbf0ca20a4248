from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from folkmoot.contract import Contract
from folkmoot.errors import DataError
from site_tasks.validate import validate_table

from .conftest import COLUMNS, rows, write

Change = Callable[[pd.DataFrame], pd.DataFrame]


def test_good_rows(contract: Contract, tmp_path: Path) -> None:
    assert validate_table(write(rows(60), tmp_path / "t.parquet"), contract) == {"rows": 60}


@pytest.mark.usefixtures("small_chunks")
def test_every_rule_is_counted_over_the_whole_file(contract: Contract, tmp_path: Path) -> None:
    frame = rows(100)
    frame["age"] = frame["age"].astype(float)
    frame.loc[[0, 50, 99], "age"] = [4711.0, -4711.0, np.inf]
    frame.loc[[1, 51], "age"] = 20.5
    frame.loc[[2, 52], "region"] = "4711"
    frame.loc[[3, 53, 73, 93], "dose"] = np.nan
    frame.loc[4, "outcome"] = None
    frame.loc[[5, 6], "grade"] = 4711
    with pytest.raises(DataError) as caught:
        validate_table(write(frame, tmp_path / "t.parquet"), contract)
    error = caught.value
    assert error.code == "data.contract"
    assert "Of 100 rows" in error.message
    for fault in (
        "column age: outside the public bounds [18, 90] in 3 rows",
        "column age: not a whole number in 2 rows",
        "column region: outside the public categories in 2 rows",
        "column dose: missing in 4 rows",
        "column outcome: missing in 1 rows",
        "column grade: outside the public categories in 2 rows",
    ):
        assert fault in error.message
    assert "4711" not in str(error)
    assert "20.5" not in str(error)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(columns="dose"), "column dose is missing"),
        (
            lambda f: f.rename(columns={"dose": "dosis"}),
            "column dosis is not in the contract (did you mean dose?)",
        ),
        (lambda f: f.assign(extra=1), "column extra is not in the contract"),
        (lambda f: f.assign(dose="4711"), "column dose is of type large_string"),
        (lambda f: f.assign(age=pd.Timestamp("1947-11-01")), "column age is of type timestamp"),
        (lambda f: f.assign(patient=4711), "column patient is of type int64"),
        (lambda f: f.assign(dose=None), "column dose is of type null"),
    ],
)
def test_columns(contract: Contract, tmp_path: Path, change: Change, said: str) -> None:
    with pytest.raises(DataError) as caught:
        validate_table(write(change(rows(20)), tmp_path / "t.parquet"), contract)
    assert caught.value.code == "data.column"
    assert said in caught.value.message
    assert "4711" not in str(caught.value)


def test_all_missing_is_allowed_where_missing_is(contract: Contract, tmp_path: Path) -> None:
    frame = rows(20).assign(marker=None, region=None)
    assert validate_table(write(frame, tmp_path / "t.parquet"), contract) == {"rows": 20}


def test_one_class(contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of one class") as caught:
        validate_table(write(rows(20).assign(outcome="no"), tmp_path / "t.parquet"), contract)
    assert caught.value.code == "data.one-class"


def test_files(contract: Contract, tmp_path: Path) -> None:
    whole = write(rows(500), tmp_path / "whole.parquet").read_bytes()
    damaged = bytearray(whole)
    damaged[40:8000] = bytes(7960)
    found = {}
    for name, data in {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "csv": b"age,dose\n18,4711\n",
        "damaged": bytes(damaged),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError) as caught:
            validate_table(tmp_path / name, contract)
        found[name] = caught.value.code
        assert "4711" not in str(caught.value)
    assert set(found.values()) == {"data.unreadable"}
    for path, code in ((tmp_path / "none", "data.missing"), (tmp_path / "zero", "data.missing")):
        if path.name == "zero":
            write(rows(5)[:0], path)
        with pytest.raises(DataError) as caught:
            validate_table(path, contract)
        assert caught.value.code == code


def test_split_and_weights(tmp_path: Path) -> None:
    columns = [
        *COLUMNS,
        {"name": "split", "role": "split", "type": "category", "categories": ["train", "test"]},
        {"name": "w", "role": "weight", "type": "number"},
    ]
    contract = Contract.model_validate({"name": "c", "task": "binary", "columns": columns})
    frame = rows(30).assign(split=["train", "test", "train"] * 10, w=1.0)
    assert validate_table(write(frame, tmp_path / "t.parquet"), contract) == {"rows": 30}
    frame.loc[[0, 1], "split"] = "hold"
    frame.loc[[0, 1, 2], "w"] = [-1, np.inf, np.nan]
    with pytest.raises(DataError) as caught:
        validate_table(write(frame, tmp_path / "t.parquet"), contract)
    for fault in (
        "column split: neither train nor test in 2 rows",
        "column w: negative or not finite in 2 rows",
        "column w: missing in 1 rows",
    ):
        assert fault in caught.value.message
