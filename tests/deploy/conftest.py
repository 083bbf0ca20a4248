"""A real PostgreSQL on loopback, where its server program is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.testbed.postgres import Postgres, programs

__all__ = ["Postgres", "postgres"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: folkmoot[postgres]")
    if programs() is None:
        pytest.skip("no PostgreSQL server program (initdb, postgres): apt-get install postgresql")
    made = Postgres(["fsync=off"])
    made.start()
    try:
        made.wait()
        yield made
    finally:
        made.stop()
