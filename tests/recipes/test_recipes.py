"""Recipes: their rows keep to their contracts, whose bounds are public."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, DataError
from folkmoot.params import parse_params
from pipelines.recipes import RECIPES, contract_of, load, partition
from pipelines.recipes.synthetic import SyntheticRows
from tests.conftest import real_data


def data(recipe: str, **values: Any) -> Any:
    return parse_params({"data": {"recipe": recipe, **values}}).data


def keep_to(frame: pd.DataFrame, contract: Contract) -> None:
    for column in contract.columns:
        values = frame[column.name]
        if not column.missing:
            assert values.notna().all(), column.name
        if column.bounds is not None:
            assert values.min() >= column.bounds[0], column.name
            assert values.max() <= column.bounds[1], column.name
        if column.categories is not None:
            assert set(values.dropna().astype(str)) <= set(column.categories), column.name


@pytest.mark.parametrize("recipe", ["breast_cancer", "diabetes", "synthetic"])
def test_bundled_rows_keep_to_their_contract(recipe: str) -> None:
    frame, contract = load(recipe, data(recipe))
    keep_to(frame, contract)
    assert len(frame) == {"breast_cancer": 569, "diabetes": 442, "synthetic": 2000}[recipe]
    assert [column.name for column in contract.columns] == list(frame.columns)


def test_the_positive_class_of_breast_cancer_is_malignant() -> None:
    frame, contract = load("breast_cancer", data("breast_cancer"))
    assert contract.classes == ("benign", "malignant")
    assert (frame["diagnosis"] == "malignant").sum() == 212


def test_contracts_are_read_without_pandas() -> None:
    code = (
        "import sys; from folkmoot.params import parse_params;"
        "from pipelines.recipes import contract_of;"
        "[contract_of(parse_params({'data': {'recipe': r}}).data) for r in "
        "('breast_cancer', 'diabetes', 'heart', 'adult', 'synthetic')];"
        "print([m for m in ('pandas', 'sklearn', 'pyarrow') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("recipe", ["diabetes", "heart", "adult", "synthetic"])
def test_hierarchies_cover_their_columns_and_end_in_one_group(recipe: str) -> None:
    contract = contract_of(data(recipe))
    for column in contract.with_role("quasi_identifier"):
        assert column.hierarchy is not None, column.name
        if column.categories is None:
            assert column.bounds is not None
            assert column.hierarchy.widths[-1] >= column.bounds[1] - column.bounds[0]
            continue
        groups = set(column.categories)
        for level in column.hierarchy.levels:
            assert groups == set(level), column.name
            groups = set(level.values())
        assert groups == {"*"}, column.name


def test_every_recipe_of_params_is_listed() -> None:
    from folkmoot.params import Data

    schema = Data.model_json_schema()["properties"]["recipe"]["anyOf"]
    assert set(RECIPES) == set(schema[0]["enum"])


def test_an_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="no recipe iris"):
        load("iris", data("diabetes"))


# Synthetic --------------------------------------------------------------------------------------


def test_a_longer_synthetic_table_continues_a_shorter_one() -> None:
    short = SyntheticRows(500, 3, 1).frame()
    long = SyntheticRows(70_000, 3, 1).frame()
    pd.testing.assert_frame_equal(long.head(500), short)
    assert long["record_id"].is_unique
    assert not SyntheticRows(500, 3, 2).frame()["x00"].equals(short["x00"])


def test_the_synthetic_contract_depends_on_the_columns_alone() -> None:
    contract = contract_of(data("synthetic", rows=10, columns=120))
    assert contract == contract_of(data("synthetic", rows=99, columns=120, seed=5))
    assert len(contract.with_role("feature")) == 120
    assert len(contract.with_role("direct_identifier")) == 2
    assert len(contract.with_role("quasi_identifier")) == 3
    assert len(contract.with_role("sensitive")) == 1


def test_the_synthetic_label_can_be_learnt() -> None:
    from sklearn.linear_model import LogisticRegression

    frame = SyntheticRows(4000, 5, 0).frame()
    x = frame[[f"x{i:02d}" for i in range(5)]]
    y = frame["outcome"] == "yes"
    assert 0.3 < y.mean() < 0.7
    assert LogisticRegression().fit(x[:3000], y[:3000]).score(x[3000:], y[3000:]) > 0.7


# Real data --------------------------------------------------------------------------------------

#: Two rows with a missing value in a column that stays, and one whose missing value is dropped.
HEART = """63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0
67.0,1.0,4.0,160.0,286.0,0.0,2.0,108.0,1.0,1.5,2.0,3.0,3.0,2
67.0,0.0,4.0,120.0,229.0,0.0,2.0,129.0,1.0,2.6,2.0,2.0,7.0,1
37.0,1.0,3.0,130.0,250.0,0.0,0.0,187.0,0.0,3.5,3.0,0.0,3.0,0
41,0,2,130,204,0,2,172,0,1.4,?,?,?,0
56,1,2,120,236,0,0,178,0,.8,1,0,3,4
29,1,2,140,?,0,0,170,0,0,?,?,?,0
"""


def write_heart(folder: Path) -> Path:
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        (folder / f"processed.{name}.data").write_text(HEART)
    return folder


def test_heart_files_are_read_as_flamby_does(tmp_path: Path) -> None:
    frame, contract = load("heart", data("heart", path=str(write_heart(tmp_path))))
    keep_to(frame, contract)
    cleveland = frame[frame["hospital"] == "cleveland"]
    assert len(cleveland) == 6  # the row without cholesterol is dropped, that without thal stays
    assert cleveland["disease"].tolist() == ["absence", "presence", "presence"] * 1 + [
        "absence",
        "absence",
        "presence",
    ]
    assert (cleveland["split"] == "train").sum() == 3  # floor(0.66 * 6)
    assert cleveland["sex"].tolist()[:3] == ["male", "male", "female"]


def test_heart_follows_flambys_protocol() -> None:
    folder = real_data("heart")
    frame, contract = load("heart", data("heart", path=str(folder)))
    keep_to(frame, contract)
    assert len(frame) == 740
    train = frame[frame["split"] == "train"].groupby("hospital").size()
    assert train.to_dict() == {"cleveland": 199, "hungarian": 172, "switzerland": 30, "va": 85}


def test_heart_is_dealt_by_hospital() -> None:
    folder = real_data("heart")
    params = parse_params(
        {
            "federation": {"sites": ["va", "cleveland", "switzerland", "hungarian"]},
            "data": {
                "recipe": "heart",
                "path": str(folder),
                "partition": {"kind": "natural", "column": "hospital"},
            },
        }
    )
    dealt = partition(*load("heart", params.data), params)
    sizes = {name: len(part) for name, part in dealt.items()}
    assert sizes == {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}
    assert all("hospital" not in part.columns for part in dealt.values())


ADULT = """39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, \
Male, 2174, 0, 40, United-States, <=50K
50, ?, 83311, Masters, 14, Married-civ-spouse, ?, Husband, Black, Female, 0, 0, 13, ?, >50K
"""


@pytest.mark.parametrize("first", ["|1x3 Cross validator\n", "age, workclass, income\n"])
def test_adult_files_in_both_published_forms(tmp_path: Path, first: str) -> None:
    (tmp_path / "adult.data").write_text(ADULT)
    dotted = ADULT.replace("<=50K", "<=50K.").replace(">50K", ">50K.")
    (tmp_path / "adult.test").write_text(first + dotted)
    frame, contract = load("adult", data("adult", path=str(tmp_path)))
    keep_to(frame, contract)
    assert frame["split"].tolist() == ["train", "train", "test", "test"]
    assert frame["income"].tolist() == ["<=50K", ">50K"] * 2
    assert frame["workclass"].isna().tolist() == [False, True] * 2


def test_adult_whole() -> None:
    folder = real_data("adult")
    frame, contract = load("adult", data("adult", path=str(folder)))
    keep_to(frame, contract)
    assert frame.groupby("split").size().to_dict() == {"train": 32561, "test": 16281}
    complete = frame.dropna().groupby("split").size().to_dict()
    assert complete == {"train": 30162, "test": 15060}


@pytest.mark.parametrize("recipe", ["heart", "adult"])
def test_a_folder_without_the_files_names_them(tmp_path: Path, recipe: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(recipe, data(recipe, path=str(tmp_path)))
    assert caught.value.code == "config.missing-file"
    lacking = {"heart": "processed.va.data", "adult": "adult.test"}[recipe]
    assert lacking in caught.value.message


def test_a_file_of_another_kind_is_told_without_its_values(tmp_path: Path) -> None:
    write_heart(tmp_path)
    (tmp_path / "processed.va.data").write_text("name,secret\nx,4711\n")
    with pytest.raises(DataError) as caught:
        load("heart", data("heart", path=str(tmp_path)))
    assert caught.value.code == "data.unreadable"
    assert "processed.va.data" in caught.value.message
    assert "4711" not in str(caught.value)


def test_folkmoot_data_names_the_folder_of_all_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heart").mkdir()
    write_heart(tmp_path / "heart")
    monkeypatch.setenv("FOLKMOOT_DATA", str(tmp_path))
    assert len(load("heart", data("heart"))[0]) == 24
    shutil.rmtree(tmp_path / "heart")
