"""Birth dates, postcodes, shifted dates, top coding, pseudonyms and their epochs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.agreement import SchemaLattice
from folkmoot.contract import Column, Contract
from folkmoot.conversion import convert
from folkmoot.errors import DataError
from folkmoot.features import encode_frame
from folkmoot.params import Anonymisation
from site_tasks.anonymise.chosen import chosen_models
from site_tasks.anonymise.full_domain.read import read_coded
from site_tasks.anonymise.full_domain.regret import regrets
from site_tasks.anonymise.job import Job
from site_tasks.anonymise.table import anonymise_table
from site_tasks.pseudonymise import date_shifts, shift_key
from site_tasks.table import ROW
from site_tasks.validate import validate_table

from .conftest import SECRET, Anonymise

BORN = {
    "name": "born",
    "role": "quasi_identifier",
    "type": "date",
    "bounds": [0, 90],
    "clip": True,
    "convert": {"to": "age", "reference": "2024-03-01"},
}
CONTRACT = Contract.model_validate(
    {
        "name": "dates",
        "task": "binary",
        "columns": [
            {"name": "person", "role": "direct_identifier", "type": "text"},
            BORN,
            {
                "name": "postcode",
                "role": "quasi_identifier",
                "type": "text",
                "categories": ["10", "20"],
                "convert": {"to": "prefix", "length": 2},
            },
            {
                "name": "visit",
                "type": "date",
                "bounds": [-2000, 2000],
                "convert": {
                    "to": "days",
                    "reference": "2020-01-01",
                    "person": "person",
                    "shift": 30,
                },
            },
            {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]},
        ],
    }
)


def frame(n: int = 60) -> pd.DataFrame:
    days = pd.to_timedelta(np.arange(n) * 400, "D")
    return pd.DataFrame(
        {
            "person": [f"p{i // 3}" for i in range(n)],
            "born": pd.Timestamp("1924-03-02") + days,
            "postcode": [f"{10 * (1 + i % 2)}{i:03d}" for i in range(n)],
            "visit": pd.Timestamp("2021-01-01") + pd.to_timedelta(np.arange(n) % 3, "D"),
            "y": ["no", "yes"] * (n // 2),
        }
    )


@pytest.mark.parametrize(
    ("born", "age"),
    [("2000-03-01", 24), ("2000-03-02", 23), ("2000-02-29", 24), ("1900-01-01", 90), (None, None)],
)
@pytest.mark.parametrize("typed", [True, False])
def test_ages_are_whole_years_on_the_day(born: str | None, age: int | None, typed: bool) -> None:
    series = pd.Series([born], dtype="str")
    found = convert(pd.to_datetime(series) if typed else series, Column.model_validate(BORN))
    assert found.isna().all() if age is None else found.tolist() == [age]


def test_no_date_is_counted_not_shown() -> None:
    with pytest.raises(DataError, match="born has values that are no date in 1 rows") as caught:
        convert(pd.Series(["2000-01-01", "secret"], dtype="str"), Column.model_validate(BORN))
    assert "secret" not in str(caught.value)


def test_intervals_of_one_person_stay_and_dates_do_not(anonymise: Anonymise) -> None:
    table = frame()
    _, found = anonymise(table, contract=CONTRACT, version="v")
    days = (table["visit"] - pd.Timestamp("2020-01-01")).dt.days
    moved = found["visit"] - days
    assert (moved.groupby(table["person"]).nunique() == 1).all()
    assert moved.nunique() > 10
    assert moved.abs().max() <= 30
    assert "person" not in found
    assert set(found["postcode"]) == {"10", "20"}


def test_pseudonyms_and_shifts_last_until_the_epoch_changes(anonymise: Anonymise) -> None:
    def made(rows: pd.DataFrame, epoch: int) -> pd.DataFrame:
        values: dict[str, Any] = {"identifiers": "pseudonymise", "pseudonym_epoch": epoch}
        return anonymise(rows, contract=CONTRACT, **values)[1]

    one, more, other = made(frame(30), 0), made(frame(60), 0), made(frame(30), 1)
    pd.testing.assert_frame_equal(one, more[:30])
    assert not set(one["person"]) & set(other["person"])
    assert one["person"].str.fullmatch("[0-9a-f]{64}").all()
    assert (one["visit"] != other["visit"]).any()


def test_shifts_are_even_over_the_range() -> None:
    shifts = date_shifts(pd.Series(range(4000)), shift_key(SECRET, "p"), 3)
    counts = np.bincount(shifts + 3)
    assert len(counts) == 7
    assert counts.min() > 450


def test_validation_checks_what_comes_of_the_conversion(tmp_path: Path) -> None:
    table = frame()
    table.to_parquet(tmp_path / "t.parquet", index=False)
    assert validate_table(tmp_path / "t.parquet", CONTRACT)["rows"] == 60
    table.loc[[1, 2], "postcode"] = "99999"
    table.to_parquet(tmp_path / "t.parquet", index=False)
    with pytest.raises(DataError, match="postcode: outside the public categories in 2 rows"):
        validate_table(tmp_path / "t.parquet", CONTRACT)


def test_a_prediction_is_converted_as_training_was_but_not_shifted(anonymise: Anonymise) -> None:
    table = frame()
    _, found = anonymise(table, contract=CONTRACT)
    raw = encode_frame(table, CONTRACT, Anonymisation(), "trees")
    from folkmoot.generalisation import generalised

    trained = encode_frame(found, generalised(CONTRACT, Anonymisation()), Anonymisation(), "trees")
    np.testing.assert_array_equal(raw[:, :2], trained[:, :2])
    assert (np.abs(raw[:, 2] - trained[:, 2]) <= 30).all()


def test_levels_are_settled_over_converted_columns(tmp_path: Path) -> None:
    """Dates and codes are searched, recoded and proven as if they had been converted before."""
    draw = np.random.default_rng(4)
    age, code = draw.integers(0, 90, 300), draw.choice(["10", "20"], 300)
    born = [f"{2023 - years}-06-30" for years in age]
    hierarchy = {"born": {"widths": [10, 30, 90]}, "postcode": {"prefixes": [1, 0]}}
    raw = [
        {**BORN, "hierarchy": hierarchy["born"]},
        {
            "name": "postcode",
            "role": "quasi_identifier",
            "type": "text",
            "categories": ["10", "20"],
            "convert": {"to": "prefix", "length": 2},
            "hierarchy": hierarchy["postcode"],
        },
    ]
    plain: list[dict[str, Any]] = [
        {**raw[0], "type": "integer"},
        {**raw[1], "type": "category"},
    ]
    for column in plain:
        del column["convert"]
    label = {"name": "y", "role": "label", "type": "category", "categories": ["0", "1"]}
    frame = pd.DataFrame({"born": born, "postcode": [f"{c}99" for c in code], "y": "0"})
    before = pd.DataFrame({"born": age.astype(float), "postcode": code, "y": "0"})
    found = []
    for name, columns, rows in (("raw", raw, frame), ("plain", plain, before)):
        contract = Contract.model_validate(
            {"name": "c", "task": "binary", "columns": [*columns, label]}
        )
        settings = Anonymisation(recoding="agreed", k=8, suppression_limit=1.0)
        source, target = tmp_path / f"{name}.parquet", tmp_path / f"{name}-out.parquet"
        rows.to_parquet(source, index=False)
        job = Job(source, target, contract, settings, SECRET)
        coded, _ = read_coded(job)
        said = regrets(coded, chosen_models(contract, settings), limit=1.0)
        chosen = settings.model_copy(update={"settled": said.optimum.levels})
        report = anonymise_table(replace(job, settings=chosen))
        made = pd.read_parquet(target).drop(columns=ROW).astype({"postcode": "str"})
        found.append((coded.codes.tolist(), said.codes.tolist(), report.suppressed, made))
        assert SchemaLattice.of(contract, settings).size == len(said.codes)
    assert found[0][:3] == found[1][:3]
    pd.testing.assert_frame_equal(found[0][3], found[1][3])
    assert len(set(map(tuple, found[0][0]))) > 50
