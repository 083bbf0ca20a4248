"""A table in two passes over its pieces is the table made at once, and all or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import site_tasks.anonymise.counted as counted_rows
import site_tasks.anonymise.streamed as streamed
import site_tasks.table
from folkmoot.contract import Contract
from folkmoot.errors import DataError, FolkmootError, PrivacyError
from folkmoot.params import Anonymisation
from site_tasks.anonymise.coded import Coded, Column
from site_tasks.anonymise.identifiers import identified_chunks
from site_tasks.anonymise.job import Job
from site_tasks.anonymise.local.stream import Partition, streamable
from site_tasks.anonymise.one_file import anonymise_file
from site_tasks.anonymise.recoding import Recoding
from site_tasks.anonymise.risk import report as risk
from site_tasks.anonymise.table import anonymise_table

from .conftest import SECRET, rows

Run = Callable[..., tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]]
CASES: dict[str, dict[str, Any]] = {
    "k alone": {"k": 5, "suppression_limit": 0},
    "rows left out": {"k": 5, "suppression_limit": 0.05},
    "l and t": {"k": 4, "l_diversity": {"l": 2}, "t_closeness": {"t": 0.5}},
    "pseudonyms": {"k": 5, "identifiers": "pseudonymise"},
}
LEVELS = {"recoding": "public", "suppression_limit": 1.0, "levels": {"age": 1, "weight": 1}}
COUNTED: dict[str, dict[str, Any]] = {
    "k alone": {**LEVELS, "k": 6},
    "l and t": {**LEVELS, "k": 4, "l_diversity": {"l": 3}, "t_closeness": {"t": 0.35}},
    "two columns": {
        **LEVELS,
        "k": 3,
        "identifiers": "pseudonymise",
        "l_diversity": {"l": 2},
        "sensitive": ["illness", "outcome"],
    },
}


def table() -> pd.DataFrame:
    """Rows of which many are equal, many are alone, and some lack values."""
    frame = rows(900)
    frame["weight"] = (frame["weight"] / 10).round() * 10
    whole: pd.DataFrame = pd.concat([frame, frame[200:500], rows(400, seed=1)], ignore_index=True)
    whole["patient"] = [f"P-{i:05d}" for i in range(len(whole))]
    return whole


def odd_ones() -> pd.DataFrame:
    """Equal rows by the hundreds, and two that would widen the cells of all of them."""
    frame: pd.DataFrame = rows(900).assign(age=50.0, weight=80.0, smoker=True, region="north")
    late = frame.index >= 400
    frame["age"] = frame["age"].mask(late)
    frame["region"] = frame["region"].mask(late, "south")
    frame.loc[[600, 601], "region"] = "east"
    return frame


@pytest.fixture
def run(contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Anonymise the table in row groups and chunks of few rows, streamed or whole."""
    monkeypatch.setattr(site_tasks.table, "CHUNK", 170)
    monkeypatch.setattr(risk, "_MOST", 300)  # so that the report takes a sample
    source = tmp_path / "in.parquet"

    def made(
        settings: dict[str, Any], frame: pd.DataFrame, *, whole: bool = False
    ) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]:
        frame.to_parquet(source, index=False, row_group_size=256)
        passed = []
        look_up = Partition.apply

        def counted(self: Partition, piece: Coded) -> Recoding:
            passed.append(piece.rows)
            return look_up(self, piece)

        with monkeypatch.context() as patch:
            patch.setattr(Partition, "apply", counted)
            if whole:
                patch.setattr(streamed, "streams", lambda job: False)
                patch.setattr(counted_rows, "counts_only", lambda job: False)
            target, folder = tmp_path / f"out-{whole}.parquet", tmp_path / f"risk-{whole}"
            found = anonymise_file(
                source,
                target,
                contract,
                Anonymisation.model_validate({"recoding": "local", **settings}),
                report=folder,
                secret=SECRET,
            )
        assert sum(passed) == (0 if whole else len(frame))
        assert whole or max(passed) <= 170
        return found, pd.read_parquet(target), json.loads((folder / "risk.json").read_text())

    return made


@pytest.mark.parametrize("name", CASES)
def test_the_stream_makes_the_same_table_and_report(name: str, run: Run) -> None:
    frame = odd_ones() if name == "rows left out" else table()
    found, streamed_table, report = run(CASES[name], frame)
    wanted, whole_table, whole_report = run(CASES[name], frame, whole=True)
    pd.testing.assert_frame_equal(streamed_table, whole_table)
    assert _flat(found) == pytest.approx(_flat(wanted))
    assert found["suppressed"] == (2 if name == "rows left out" else 0)
    assert _flat(report) == pytest.approx(_flat(whole_report))
    assert report["population"][0]["estimates"]
    if name == "l and t":
        assert report["after"]["sensitive"]["illness"]["distinct_l"] >= 2


@pytest.mark.parametrize("name", COUNTED)
def test_public_levels_need_counts_alone(name: str, run: Run) -> None:
    found, streamed_table, report = run(COUNTED[name], table())
    wanted, whole_table, whole_report = run(COUNTED[name], table(), whole=True)
    pd.testing.assert_frame_equal(streamed_table, whole_table)
    assert found == wanted
    assert 0 < found["suppressed"] < found["rows"]
    assert _flat(report) == pytest.approx(_flat(whole_report))


def test_numbers_that_keep_their_value_are_not_counted(contract: Contract, tmp_path: Path) -> None:
    def counts(levels: dict[str, int], **more: Any) -> bool:
        settings = Anonymisation(k=5, levels=levels)
        return counted_rows.counts_only(Job(tmp_path, tmp_path, contract, settings, SECRET, **more))

    assert counts({"weight": 1})
    assert not counts({"age": 1})
    assert not counts({"weight": 1}, utility=True)


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    """Nested JSON as one level, with a path for each figure."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, part in inner for k, v in _flat(part, f"{at}/{name}").items()}
    return {at: value}


def _break(kind: str, patch: pytest.MonkeyPatch) -> None:
    look_up, second_pass = Partition.apply, identified_chunks

    def moved(self: Partition, piece: Coded) -> Recoding:
        made = look_up(self, piece)
        others = np.where(made.classes == 0, 1, made.classes).astype(np.int32)
        return Recoding(made.columns, others, made.cells)

    def shortened(*given: Any) -> Iterator[pd.DataFrame]:
        yield from list(second_pass(*given))[:-1]

    def changed(*given: Any) -> Iterator[pd.DataFrame]:
        for frame in second_pass(*given):
            yield frame.assign(age=7.0, weight=199.0, smoker=True, region="west")

    if kind == "an engine that errs":
        patch.setattr(Partition, "apply", moved)
    else:
        how = changed if kind == "rows that changed" else shortened
        patch.setattr(streamed, "identified_chunks", how)
        patch.setattr(counted_rows, "identified_chunks", how)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("an engine that errs", PrivacyError, "do not allow their own value"),
        ("rows that are gone", PrivacyError, "neither kept nor suppressed"),
        ("rows that changed", DataError, "changed between the two passes"),
        ("a shorter file, counted", DataError, "changed between the two passes"),
    ],
)
def test_nothing_is_left_of_a_table_that_is_not_proven(
    kind: str,
    error: type[FolkmootError],
    words: str,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site_tasks.table, "CHUNK", 170)
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    table().to_parquet(source, index=False)
    settings = Anonymisation(recoding="local", k=5)
    if kind.endswith("counted"):
        settings = Anonymisation.model_validate({**COUNTED["k alone"]})
    job = Job(source, target, contract, settings, SECRET)
    _break(kind, monkeypatch)
    with pytest.raises(error, match=words):
        anonymise_table(job)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_what_speaks_of_each_row_is_not_streamed(contract: Contract, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"

    def streams(values: dict[str, Any], **more: Any) -> bool:
        settings = Anonymisation.model_validate({"recoding": "local", "k": 5, **values})
        return streamed.streams(Job(source, source, contract, settings, SECRET, **more))

    assert streams({})
    assert streams({"l_diversity": {"l": 2}})
    assert not streams({"method": "relaxed"})
    assert not streams({"method": "microaggregation"})
    assert not streams({}, utility=True)
    assert not any(streams({}, **{name: source}) for name in ("series", "population", "outcome"))
    wide = Column("wide", True, tuple(range(2**16 - 1)))
    assert streamable([wide] * 3, wide) is False
    assert streamable([wide] * 3) is True
