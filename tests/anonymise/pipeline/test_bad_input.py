"""One clear error with its remedy each, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from folkmoot.cli.app import app
from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, DataError, FolkmootError
from folkmoot.params import Anonymisation, parse_params
from folkmoot.sections import parse
from site_tasks.anonymise.one_file import anonymise_file

from .conftest import COLUMNS, Anonymise, rows

LOCAL: dict[str, Any] = {"recoding": "local", "k": 5}
QUASI = ["age", "region", "weight", "smoker"]
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "k over rows": ({**LOCAL, "k": 500}, "data.too-few-rows", "300 rows, fewer than k = 500"),
    "k over rows, public": ({"k": 500}, "data.too-few-rows", "300 rows, fewer than k = 500"),
    "no level": ({"levels": {"age": 7}}, "config", "age"),
    "no column": ({"levels": {"nix": 1}}, "config.invalid", "nix"),
    "l over values": ({**LOCAL, "l_diversity": {"l": 4}}, "data.privacy-model", "l = 4"),
    "sensitive quasi": (
        {**LOCAL, "sensitive": "age", "l_diversity": {"l": 2}},
        "config.invalid",
        "sensitive names age",
    ),
    "k-map alone": ({"k": 2, "k_map": 3}, "config.invalid", "population"),
    "k-map, local": ({**LOCAL, "k_map": 6}, "config.invalid", "population"),
    "presence of everybody, local": (
        {**LOCAL, "delta_presence": {"low": 0.1, "high": 0.5}},
        "config.invalid",
        "behind no class",
    ),
    "suppression": ({"k": 5, "suppression_limit": 0.01}, "data.suppression", "of 300 rows"),
    "tree of no hierarchy": (
        {**LOCAL, "t_closeness": {"t": 0.2, "distance": "hierarchical"}},
        "config.invalid",
        "hierarchy of illness",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_written(
    name: str, contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, code, words = BAD[name]
    source, target, report = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "report"
    rows(300).astype({"age": "Int64"}).to_csv(source, index=False)
    with pytest.raises(FolkmootError, match=words) as caught:
        anonymise_file(
            source, target, contract, Anonymisation.model_validate(values), report=report
        )
    assert caught.value.code.startswith(code)
    assert caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"recoding": "local", "k": 1}, "k of at least 2"),
        ({"recoding": "local", "k": 5, "levels": {"age": 1}}, "levels have no meaning"),
        ({"k": 3, "l_diversity": {"l": 4}}, "at least l"),
        ({"l_diversity": {"kind": "recursive", "l": 2}}, "c belongs to recursive"),
        ({"delta_presence": {"low": 0.5, "high": 0.1}}, "must not lie above"),
        ({"k": 5, "k_map": 3}, "contradicts"),
    ],
)
def test_contradictions_in_params(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(Anonymisation, values, source="params.yaml")


def test_t_without_a_sensitive_column(anonymise: Anonymise) -> None:
    columns = [c for c in COLUMNS if c["name"] != "illness"]
    bare = Contract.model_validate({"name": "bare", "task": "binary", "columns": columns})
    with pytest.raises(ConfigError, match="no column of the contract has role sensitive"):
        anonymise(rows(50).drop(columns="illness"), contract=bare, **LOCAL, t_closeness={"t": 0.2})


def test_values_outside_the_domain_are_counted(anonymise: Anonymise) -> None:
    frame = rows(50)
    frame.loc[[3, 4], "region"] = "atlantis"
    with pytest.raises(DataError, match=r"region.*2") as caught:
        anonymise(frame, **LOCAL)
    assert "atlantis" not in str(caught.value)


@pytest.mark.parametrize("recoding", ["agreed", "local"])
def test_data_dependent_cuts_are_refused_under_differential_privacy(recoding: str) -> None:
    private = {
        "privacy": {"mechanism": "gaussian", "noise_multiplier": 1.0},
        "aggregation": {"weighting": "uniform"},
        "data": {"scaling": "bounds"},
        "model": {"linear": {"strategy": "fedavg"}},
    }
    assert parse_params({**private, "anonymisation": {"k": 5}})
    with pytest.raises(ConfigError, match="no budget pays for"):
        parse_params({**private, "anonymisation": {"recoding": recoding, "k": 5}})
    with pytest.raises(ConfigError, match="k alone"):
        parse_params({**private, "anonymisation": {"k": 5, "l_diversity": {"l": 2}}})


def test_a_missing_value_never_widens_a_class_silently(anonymise: Anonymise) -> None:
    frame = rows(120)
    _, table = anonymise(frame, **LOCAL)
    assert len(table) == 120  # and no row with a missing value vanishes
    exact = table["region"].isna().to_numpy()
    assert frame["region"].isna().to_numpy()[exact].all()
    wide = table["region"].astype("str").str.startswith("[") & frame["region"].isna()
    assert table.loc[wide, "region"].astype("str").str.contains("null").all()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_command(tmp_path: Path, suffix: str) -> None:
    import yaml

    frame = rows(300).astype({"age": "Int64"})
    source, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    frame.to_csv(source, index=False) if suffix == "csv" else frame.to_parquet(source, index=False)
    contract = tmp_path / "c.yaml"
    contract.write_text(
        yaml.safe_dump({"name": "clinic", "task": "binary", "columns": COLUMNS}), encoding="utf-8"
    )
    arguments = ["anonymise", str(source), "--contract", str(contract), "--out", str(out)]
    done = CliRunner().invoke(
        app, [*arguments, "--k", "5", "--set", "anonymisation.l_diversity.l=2"]
    )
    assert done.exit_code == 0, done.output
    assert "300 of 300 rows" in done.output
    table = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
    quasi = ["age", "region", "weight", "smoker"]
    groups = table.groupby(quasi, dropna=False, observed=True)["illness"]
    assert groups.size().min() >= 5
    assert groups.nunique().min() >= 2
    assert not {"patient", "note", "__row__"} & set(table.columns)
    assert np.array_equal(table["outcome"], frame["outcome"])
    assert (tmp_path / f"out.{suffix}.risk" / "risk.html").stat().st_size > 1000
    assert (tmp_path / f"out.{suffix}.risk" / "risk.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "models",
    [{"k_map": 20}, {"delta_presence": {"high": 0.12}}, {"k_map": 9, "l_diversity": {"l": 2}}],
)
def test_population_models_of_cells_that_differ(
    anonymise: Anonymise, tmp_path: Path, models: dict[str, Any]
) -> None:
    """Recounted here from the published text: whoever lies in all cells of a class stands behind it."""
    frame = rows(200)
    everybody = pd.concat([frame, rows(2000, seed=1)], ignore_index=True)
    people = tmp_path / "people.parquet"
    everybody[QUASI].to_parquet(people, index=False)
    values = {**LOCAL, "suppression_limit": 1.0, **models}
    report, table = anonymise(frame, population=people, **values)
    assert 0 < len(table) == 200 - report.suppressed
    plain, _ = anonymise(frame, **LOCAL)
    assert plain.suppressed < report.suppressed or models.get("k_map") == 9
    for cells, found in table.groupby(QUASI, dropna=False, observed=True):
        behind = everybody[
            np.logical_and.reduce(
                [_allows(c, everybody[n]) for c, n in zip(cells, QUASI, strict=True)]
            )
        ]
        assert len(behind) >= models.get("k_map", 0)
        assert len(found) <= models.get("delta_presence", {"high": 1})["high"] * len(behind)
    with pytest.raises(DataError, match=r"^data.suppression: 200 of 200 rows .* model, more than"):
        anonymise(frame, population=people, **{**values, "k_map": 2201, "suppression_limit": 0.5})


def _allows(cell: Any, values: pd.Series[Any]) -> Any:
    """Which values a published cell allows, from its text alone."""
    if pd.isna(cell):
        return values.isna()
    text, missing = str(cell), False
    if values.dtype.kind in "biu" or values.dtype.kind == "f":
        missing, text = text.endswith(" or missing"), text.removesuffix(" or missing")
    if values.dtype.kind == "f" and text.startswith("["):
        low, high = map(float, text[1:-1].split(", "))
        inside = (values >= low) & ((values <= high) if text.endswith("]") else (values < high))
    elif values.dtype.kind == "f":
        inside = values == float(text)
    else:
        members = json.loads(text) if text.startswith("[") else [text]
        missing = None in members
        inside = values.astype("str").str.lower().isin([str(m).lower() for m in members if m])
        inside &= values.notna()
    return inside | values.isna() if missing else inside


def test_population_models_are_proven(anonymise: Anonymise, tmp_path: Path) -> None:
    frame = rows(60)
    everybody = pd.concat([frame, rows(600, seed=1)], ignore_index=True)
    people = tmp_path / "people.parquet"
    everybody[["age", "region", "weight", "smoker"]].to_parquet(people, index=False)
    levels = {"age": 2, "region": 1, "weight": 2}
    values: dict[str, Any] = {"k": 2, "k_map": 20, "levels": levels, "suppression_limit": 0.5}
    _, table = anonymise(frame, population=people, **values)
    assert len(table)
    with pytest.raises(DataError, match=r"suppress|equivalence"):
        anonymise(frame, population=people, **{**values, "k_map": 600, "suppression_limit": 0.0})
