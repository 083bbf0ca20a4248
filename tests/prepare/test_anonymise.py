from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, DataError
from folkmoot.generalisation import check_levels
from folkmoot.params import Anonymisation
from site_tasks.anonymise.classes import count_classes
from site_tasks.anonymise.generalise import anonymise, needed
from site_tasks.anonymise.job import Job
from site_tasks.pseudonymise import pseudonym_key, pseudonymise
from site_tasks.table import ROW

from .conftest import rows, write

SECRET = bytes(range(32))
LEVELS = {"age": 2, "region": 1}


def run(frame: pd.DataFrame, folder: Path, contract: Contract, **values: Any) -> pd.DataFrame:
    settings = Anonymisation.model_validate(values)
    source, target = write(frame, folder / "source.parquet"), folder / "target.parquet"
    report = anonymise(Job(source, target, contract, settings, SECRET))
    found = pd.read_parquet(target)
    assert report.rows == len(frame)
    assert report.suppressed == len(frame) - len(found)
    assert report.stability == settings.k
    return found


@pytest.mark.usefixtures("small_chunks")
def test_identifiers_are_dropped_and_values_generalised(contract: Contract, tmp_path: Path) -> None:
    frame = rows(100)
    found = run(frame, tmp_path, contract, levels=LEVELS)
    assert "patient" not in found.columns
    assert set(found["region"].dropna()) == {"upper", "lower"}
    assert (found["region"].isna() == frame["region"].isna()).all()
    assert set(found["age"]) <= {23.0, 33.0, 43.0, 53.0, 63.0, 73.0, 83.0, 89.0}
    untouched = ["smoker", "grade", "dose", "marker", "outcome"]
    pd.testing.assert_frame_equal(found[untouched], frame[untouched], check_dtype=False)


def test_nothing_of_an_identifier_is_left_in_the_file(contract: Contract, tmp_path: Path) -> None:
    run(rows(50), tmp_path, contract)
    assert b"P-000" in (tmp_path / "source.parquet").read_bytes()
    assert b"P-000" not in (tmp_path / "target.parquet").read_bytes()


def test_pseudonyms(contract: Contract, tmp_path: Path) -> None:
    frame = rows(30)
    frame.loc[7, "patient"] = None
    found = run(frame, tmp_path, contract, identifiers="pseudonymise")
    key = hmac.digest(SECRET, b"folkmoot pseudonym\x00patient", "sha256")
    expected = hmac.new(key, b"P-00003", hashlib.sha256).hexdigest()
    assert found["patient"][3] == expected
    assert pd.isna(found["patient"][7])
    assert found["patient"].nunique() == 29
    assert b"P-000" not in (tmp_path / "target.parquet").read_bytes()


def test_pseudonyms_differ_between_sites_and_columns() -> None:
    series = pd.Series(["one", "two", "one"])
    found = [
        pseudonymise(series, pseudonym_key(secret, column)).tolist()
        for secret in (SECRET, bytes(32))
        for column in ("a", "b")
    ]
    assert all(values[0] == values[2] != values[1] for values in found)
    assert len({values[0] for values in found}) == 4


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("levels", [LEVELS, {"age": 3}, {"age": 1, "region": 2}])
@pytest.mark.parametrize("k", [2, 5, 9])
def test_k_anonymity(contract: Contract, tmp_path: Path, levels: dict[str, int], k: int) -> None:
    frame = rows(300, seed=k)
    found = run(frame, tmp_path, contract, levels=levels, k=k, suppression_limit=1)
    quasi = ["age", "region"]
    assert found.groupby(quasi, dropna=False, observed=True).size().min() >= k
    # No more is suppressed than has to be: every class of k or more is whole.
    everyone = run(frame, tmp_path, contract, levels=levels)
    sizes = everyone.groupby(quasi, dropna=False, observed=True)["dose"].transform("size")
    expected = np.flatnonzero(sizes >= k)
    assert found[ROW].tolist() == expected.tolist()
    assert found["dose"].tolist() == frame["dose"][expected].tolist()


def test_suppression_limit(contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"of 40 rows are in equivalence classes smaller") as caught:
        run(rows(40), tmp_path, contract, k=5, suppression_limit=0.2)
    assert caught.value.code == "data.suppression"
    assert not (tmp_path / "target.parquet").exists()


def test_models_without_quasi_identifiers_are_refused(tmp_path: Path) -> None:
    """All rows would be one class: nothing is promised, and one row less would retire them all."""
    contract = Contract.model_validate(
        {
            "name": "c",
            "task": "regression",
            "columns": [
                {"name": "x", "bounds": [0, 1]},
                {"name": "y", "role": "label", "bounds": [0, 1]},
            ],
        }
    )
    frame = pd.DataFrame({"x": [0.1, 0.2], "y": [0.0, 1.0]})
    with pytest.raises(ConfigError, match="contract c has no quasi-identifier") as caught:
        run(frame, tmp_path, contract, k=2)
    assert "anonymisation.k to 1" in caught.value.remedy
    assert not (tmp_path / "target.parquet").exists()
    check_levels(contract, Anonymisation())


def test_when_the_table_needs_no_change(contract: Contract) -> None:
    assert needed(contract, Anonymisation())  # it has direct identifiers
    bare = contract.model_copy(update={"columns": contract.columns[1:]})
    assert not needed(bare, Anonymisation())
    assert needed(bare, Anonymisation(k=2))
    assert needed(bare, Anonymisation(levels={"age": 1}))


columns = st.one_of(
    st.sampled_from([1, 3, 40, 2**20, 2**31 - 2]).map(lambda top: ("code", top)),
    st.sampled_from([2, 50]).map(lambda distinct: ("number", distinct)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(columns, min_size=1, max_size=8), st.integers(1, 120), st.integers(0, 10**6))
def test_classes_equal_groupby(kinds: list[tuple[str, int]], n: int, seed: int) -> None:
    """Whatever the columns: also where their ranges multiply far beyond 64 bits."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 12, n)  # combinations repeat
    table: dict[str, Any] = {}
    for i, (kind, top) in enumerate(kinds):
        if kind == "code":
            table[f"c{i}"] = rng.integers(-1, top, 12).astype(np.int32)[pool]
        else:
            values = rng.normal(size=top)
            values[0], values[-1] = np.nan, -0.0
            table[f"c{i}"] = values[rng.integers(0, top, 12)][pool]
            table[f"c{i}"][table[f"c{i}"] == 0] *= rng.choice([-1.0, 1.0])

    def chunks() -> Iterator[dict[str, Any]]:
        for start in range(0, n, 13):
            yield {name: values[start : start + 13] for name, values in table.items()}

    sizes = count_classes(chunks)
    frame = pd.DataFrame(table)
    expected = frame.assign(_=0).groupby(list(table), dropna=False)["_"].transform("size")
    found = np.concatenate([sizes.of(chunk) for chunk in chunks()])
    np.testing.assert_array_equal(found, expected)
    for k in (2, 4):
        assert sizes.rows_below(k) == int((expected < k).sum())
