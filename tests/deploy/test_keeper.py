"""The fault table's own parts: what kills, and what starts again."""

from __future__ import annotations

import itertools
import random
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from benchmarks.testbed import moments
from benchmarks.testbed.breakage import FAULTS, Broken
from benchmarks.testbed.keeper import Keeper
from benchmarks.testbed.moments import Bench, Moment, Run, Settings
from benchmarks.testbed.outcome import Outcome
from benchmarks.testbed.postgres import Postgres


def test_a_database_that_was_killed_is_started_again_and_keeps_its_rows(
    postgres: Postgres, tmp_path: Path
) -> None:
    postgres.make("survivor")
    with psycopg2.connect(postgres.url("survivor", "postgresql")) as connection:
        connection.cursor().execute("CREATE TABLE one AS SELECT 1 AS n")
    bed: Any = SimpleNamespace(running={}, folder=tmp_path)
    before = postgres.process
    assert before is not None
    with Keeper(bed, postgres, again=0.2) as keeper:
        broken = Broken(bed, postgres, random.Random(1), 0)
        assert FAULTS["postgres"](broken) == "postmaster"
        assert before.wait(10) == -9
        while postgres.process is before:
            time.sleep(0.05)
        postgres.wait()
    assert keeper.restarts == 1
    assert keeper.ended() == []
    with psycopg2.connect(postgres.url("survivor", "postgresql")) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT n FROM one")
        assert cursor.fetchone() == (1,)


def test_what_counts_as_well_ended() -> None:
    calm = Outcome("success", ("a", "b"), 1.0)
    assert Outcome("success", ("a", "b"), 9.0).same(calm)
    assert not Outcome("success", ("a", "c"), 9.0).same(calm)
    assert Outcome("success", ("a", "c"), 9.0).told(calm) == "OTHER DIGESTS"
    assert not Outcome("failed", None, 9.0).same(calm)
    assert Outcome("failed", None, 9.0, why="round.quorum: missing: b").quorum
    assert not Outcome("failed", None, 9.0, why="config.invalid: round.quorum").quorum
    assert not Outcome("success", None, 9.0, why="round.quorum: missing: b").quorum


class Quick(Bench):
    """A run that closes a round after each fault, and ends after the second."""

    def train(self, disturb: Any = None, conf: Any = None) -> tuple[Outcome, list[Moment]]:
        run = Run(lambda: None)
        closed = itertools.count()
        run.progress = lambda: next(closed)  # type: ignore[method-assign]
        thread = threading.Thread(target=disturb, args=[run])
        thread.start()
        while len(run.moments) < 2 and thread.is_alive():
            time.sleep(0.01)
        run.over.set()
        thread.join()
        return self.ended, run.moments

    ended = Outcome("success", ("a",), 1.0)


def test_moments_are_counted_over_runs_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[tuple[int, float]] = []

    def fault(at: Broken) -> str | None:
        drawn.append((at.number, at.dice.random()))
        return None if len(drawn) == 1 else "hit"

    monkeypatch.setitem(FAULTS, "postgres", fault)
    monkeypatch.setattr(moments, "verified", lambda bed: True)
    monkeypatch.setattr(moments, "keep_logs", lambda bed, name: None)
    keeper: Any = SimpleNamespace(restarts=0, ended=list, away=set())
    bench = Quick(None, None, keeper, Settings(1, 0, 0.01, 9.0))  # type: ignore[arg-type]
    bench.calm = Outcome("success", ("a",), 1.0)
    assert bench.kind("postgres", 3)
    assert [number for number, _ in drawn] == [0, 0, 1, 2]
    assert drawn[0] == drawn[1] != drawn[2]
    assert (
        "3 moments in 2 runs: 2 as undisturbed, 0 quorum errors, 0 else" in capsys.readouterr().out
    )
    bench.calm = Outcome("success", ("b",), 1.0)
    assert not bench.kind("postgres", 1)
    assert "OTHER DIGESTS" in capsys.readouterr().out
