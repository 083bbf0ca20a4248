"""The fault table's own parts: what kills, and what starts again."""

from __future__ import annotations

import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2

from benchmarks.testbed.breakage import FAULTS, Broken
from benchmarks.testbed.keeper import Keeper
from benchmarks.testbed.outcome import Outcome
from benchmarks.testbed.postgres import Postgres


def test_a_database_that_was_killed_is_started_again_and_keeps_its_rows(
    postgres: Postgres, tmp_path: Path
) -> None:
    postgres.make("kept")
    with psycopg2.connect(postgres.url("kept", "postgresql")) as connection:
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
    with psycopg2.connect(postgres.url("kept", "postgresql")) as connection:
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
