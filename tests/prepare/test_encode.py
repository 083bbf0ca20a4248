from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from folkmoot.contract import Contract
from folkmoot.errors import DataError
from folkmoot.features import encode_frame, encode_label
from folkmoot.params import Params, parse_params
from site_tasks.anonymise.generalise import anonymise
from site_tasks.anonymise.job import Job
from site_tasks.arrays import read_blocks
from site_tasks.encode import encode_table, held_out

from .conftest import COLUMNS, rows, write

LEVELS = "anonymisation.levels={age: 2, region: 1}"
LIMIT = "anonymisation.suppression_limit=1"


def run(frame: pd.DataFrame, folder: Path, contract: Contract, params: Params) -> dict[str, Any]:
    """Anonymise and encode as the steps do; arrays by name."""
    table = folder / "table.parquet"
    source = write(frame, folder / "source.parquet")
    anonymise(Job(source, table, contract, params.anonymisation, bytes(32)))
    counts = encode_table(table, len(frame), folder, contract, params)
    found = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    assert {part: len(found[part]) for part in ("train", "test")} == counts
    return found


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["linear", "trees"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("more", [[], [LEVELS], [LEVELS, LIMIT, "anonymisation.k=4"]])
def test_stored_rows_are_what_a_model_computes(
    contract: Contract, tmp_path: Path, kind: str, precision: str, more: list[str]
) -> None:
    """The site's arrays equal `encode_frame` of the original rows, bit for bit."""
    overrides = [f"model.kind={kind}", f"data.precision={precision}", *more]
    params = parse_params({}, overrides)
    frame = rows(150)
    found = run(frame, tmp_path, contract, params)
    kept = np.arange(150)
    if params.anonymisation.k > 1:
        kept = pd.read_parquet(tmp_path / "table.parquet")["__row__"].to_numpy()
        assert 0 < len(kept) < 150
    test = held_out(150, 0.25, 0)
    x = encode_frame(frame, contract, params.anonymisation, params.model.kind, precision)
    y = encode_label(frame["outcome"], contract)
    for part, chosen in (("train", kept[~test[kept]]), ("test", kept[test[kept]])):
        np.testing.assert_array_equal(found[part], x[chosen])
        np.testing.assert_array_equal(found[f"{part}-labels"], y[chosen])
        assert found[part].dtype == precision


def test_split_column_and_weights(tmp_path: Path) -> None:
    columns = [
        *COLUMNS,
        {"name": "split", "role": "split", "type": "category", "categories": ["train", "test"]},
        {"name": "w", "role": "weight", "type": "number"},
    ]
    contract = Contract.model_validate({"name": "c", "task": "binary", "columns": columns})
    split = np.array(["train", "test", "train"] * 20)
    frame = rows(60).assign(split=split, w=np.arange(60))
    found = run(frame, tmp_path, contract, parse_params({}))
    assert found["train-weights"].tolist() == np.arange(60)[split == "train"].tolist()
    assert found["test-weights"].tolist() == np.arange(60)[split == "test"].tolist()


def test_split_ignores_values(contract: Contract, tmp_path: Path) -> None:
    """One changed row changes no other row's part: the split is 1-stable."""
    frame = rows(80)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a = run(frame, tmp_path / "a", contract, parse_params({}))
    frame.loc[0, ["dose", "outcome"]] = [50.0, "no" if frame["outcome"][0] == "yes" else "yes"]
    b = run(frame, tmp_path / "b", contract, parse_params({}))
    same = [((a[p] == b[p]) | np.isnan(a[p])).all(axis=1) for p in ("train", "test")]
    assert sum(int((~rows_alike).sum()) for rows_alike in same) == 1


def test_held_out() -> None:
    assert held_out(100, 0.25, 0).sum() == 25
    assert (held_out(100, 0.25, 0) == held_out(100, 0.25, 0)).all()
    assert (held_out(100, 0.25, 0) != held_out(100, 0.25, 1)).any()
    assert held_out(2, 0.01, 0).sum() == 1
    assert held_out(3, 0.99, 0).sum() == 2


def test_a_direct_identifier_cannot_pass(contract: Contract, tmp_path: Path) -> None:
    table = write(rows(20), tmp_path / "table.parquet")
    with pytest.raises(DataError, match="direct identifiers: patient") as caught:
        encode_table(table, 20, tmp_path, contract, parse_params({}))
    assert caught.value.code == "data.identifier"


def test_blocks_are_the_file(tmp_path: Path) -> None:
    for array in (np.arange(70.0).reshape(10, 7), np.arange(10), np.zeros((0, 3))):
        np.save(tmp_path / "a.npy", array)
        blocks = list(read_blocks(tmp_path / "a.npy", 4))
        assert [len(b) for b in blocks] == ([4, 4, 2] if len(array) else [])
        if blocks:
            np.testing.assert_array_equal(np.concatenate(blocks), array)
