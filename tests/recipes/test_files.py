"""The user's own CSV and Parquet: typed by the contract, in batches, without values in errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from folkmoot.contract import load_contract
from folkmoot.errors import ConfigError, DataError
from folkmoot.params import Params, parse_params
from pipelines.recipes import load, partition
from site_tasks.readers import csv_to_parquet

COLUMNS: list[dict[str, Any]] = [
    {"name": "patient", "role": "direct_identifier", "type": "text"},
    {"name": "code", "type": "category", "categories": ["01", "02", "NA"]},
    {"name": "age", "type": "integer", "bounds": [0, 120], "missing": True},
    {"name": "smoker", "type": "boolean"},
    {"name": "bmi", "bounds": [10, 60], "missing": True},
    {"name": "ill", "role": "label", "type": "category", "categories": ["no", "yes"]},
]
CSV = """ill,patient,extra,code,age,smoker,bmi
no,0017,a,01,34,true,21.5
yes,0018,b,NA,,0,?
no,0019,c,02,56,False,33
yes,0020,d,01,61,1,
"""


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "task": "binary", "columns": COLUMNS}))
    return path


def params(recipe: str, path: Path, contract: Path, sites: int = 2, **partition: Any) -> Params:
    return parse_params(
        {
            "federation": {"sites": [f"s{i}" for i in range(sites)]},
            "data": {
                "recipe": recipe,
                "path": str(path),
                "contract": str(contract),
                "partition": partition,
            },
        }
    )


def test_csv_is_typed_by_the_contract(tmp_path: Path, contract: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    frame, _ = load("csv", params("csv", tmp_path / "rows.csv", contract).data)
    assert list(frame.columns) == [column["name"] for column in COLUMNS]
    assert frame["patient"].tolist() == ["0017", "0018", "0019", "0020"]  # text, zeros kept
    assert frame["code"].tolist() == ["01", "NA", "02", "01"]  # NA is a public category here
    assert frame["age"].isna().tolist() == [False, True, False, False]
    assert frame["smoker"].tolist() == [True, False, False, True]
    assert frame["bmi"].isna().tolist() == [False, True, False, True]


def test_a_folder_gives_each_site_its_file(tmp_path: Path, contract: Path) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    lines = CSV.splitlines(keepends=True)
    (folder / "s1.csv").write_text(lines[0] + "".join(lines[1:4]))
    (folder / "s0.csv").write_text(lines[0] + lines[4])
    wanted = params("csv", folder, contract, kind="natural", column="file")
    dealt = partition(*load("csv", wanted.data), wanted)
    assert dealt["s0"]["patient"].tolist() == ["0020"]
    assert dealt["s1"]["patient"].tolist() == ["0017", "0018", "0019"]
    assert "file" not in dealt["s0"].columns


def test_a_partition_may_use_a_column_that_the_contract_does_not_have(
    tmp_path: Path, contract: Path
) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    wanted = params("csv", tmp_path / "rows.csv", contract, 4, kind="natural", column="extra")
    dealt = partition(*load("csv", wanted.data), wanted)
    assert [len(part) for part in dealt.values()] == [1, 1, 1, 1]
    assert "extra" not in dealt["s0"].columns


def test_parquet(tmp_path: Path, contract: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    csv_to_parquet(tmp_path / "rows.csv", tmp_path / "rows.parquet", load_contract(contract))
    first, _ = load("csv", params("csv", tmp_path / "rows.csv", contract).data)
    second, _ = load("parquet", params("parquet", tmp_path / "rows.parquet", contract).data)
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("change", "column"),
    [(("34", "thirty-4711"), "age"), (("21.5", "x4711"), "bmi"), (("true", "4711"), "smoker")],
)
def test_a_value_of_another_type_names_the_column_not_the_value(
    tmp_path: Path, contract: Path, change: tuple[str, str], column: str
) -> None:
    (tmp_path / "rows.csv").write_text(CSV.replace(*change))
    with pytest.raises(DataError) as caught:
        load("csv", params("csv", tmp_path / "rows.csv", contract).data)
    assert caught.value.code == "data.unreadable"
    assert f"column {column} " in caught.value.message
    assert "4711" not in str(caught.value)


def test_lacking_columns_are_named(tmp_path: Path, contract: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV.replace("bmi", "bmx").replace("smoker", "smokes"))
    with pytest.raises(DataError) as caught:
        load("csv", params("csv", tmp_path / "rows.csv", contract).data)
    assert caught.value.code == "data.column"
    assert "smoker, bmi" in caught.value.message


def test_a_lacking_partition_column_is_named(tmp_path: Path, contract: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    wanted = params("csv", tmp_path / "rows.csv", contract, kind="natural", column="wrad")
    frame, own = load("csv", wanted.data)
    with pytest.raises(ConfigError, match="no column wrad"):
        partition(frame, own, wanted)


@pytest.mark.parametrize("name", ["absent.csv", "folder"])
def test_a_source_that_is_not_there(tmp_path: Path, contract: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError) as caught:
        load("csv", params("csv", tmp_path / name, contract).data)
    assert caught.value.code == "config.missing-file"
    assert "data.path" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage", b"PAR1nonsense"])
def test_files_of_another_kind(tmp_path: Path, contract: Path, content: bytes) -> None:
    for recipe in ("csv", "parquet"):
        path = tmp_path / f"rows.{recipe}"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            load(recipe, params(recipe, path, contract).data)
        assert caught.value.code in {"data.unreadable", "data.column"}
        assert str(path) in caught.value.message


def test_csv_without_rows_makes_no_file(tmp_path: Path, contract: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV.splitlines(keepends=True)[0])
    with pytest.raises(DataError) as caught:
        csv_to_parquet(tmp_path / "rows.csv", tmp_path / "rows.parquet", load_contract(contract))
    assert caught.value.code == "data.missing"
    assert list(tmp_path.glob("*.parquet")) == []
    assert list(tmp_path.glob(".*part")) == []


def test_large_csv_is_read_in_batches(tmp_path: Path, contract: Path) -> None:
    from pipelines.recipes import open_rows

    rng = np.random.default_rng(0)
    count = 600_000
    pd.DataFrame(
        {
            "patient": np.arange(count) + 10**9,
            "code": "01",
            "age": rng.integers(0, 90, count),
            "smoker": "true",
            "bmi": 20 + rng.random(count),
            "ill": "no",
        }
    ).to_csv(tmp_path / "rows.csv", index=False)
    rows, _ = open_rows(params("csv", tmp_path / "rows.csv", contract).data)
    sizes = [len(table) for table in rows.batches()]
    assert sum(sizes) == len(rows) == count
    assert len(sizes) > 1
