"""A real PostgreSQL on loopback, where its server program is installed."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.hosts.airflow_services import free_port


@dataclass
class Postgres:
    """A server with a login that owns its databases."""

    folder: Path
    port: int
    user: str
    password: str

    def url(self, database: str, scheme: str = "postgresql+psycopg2", password: str = "") -> str:
        login = f"{self.user}:{password or self.password}"
        return f"{scheme}://{login}@127.0.0.1:{self.port}/{database}"

    def make(self, database: str) -> None:
        """A new, empty database."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            user=self.user,
            password=self.password,
            dbname="postgres",
        )
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{database}"')
        connection.close()


def programs() -> Path | None:
    """Folder of PostgreSQL's server programs, or None."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += [Path(p) for p in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    return next((f for f in folders if (f / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: folkmoot[postgres]")
    bin = programs()
    if bin is None:
        pytest.skip("no PostgreSQL server program (initdb, postgres): apt-get install postgresql")
    # The server refuses to run as root.
    owner = pwd.getpwnam("nobody").pw_name if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="folkmoot-postgres-"))
    password = secrets.token_urlsafe(12)
    (folder / "password").write_text(password)
    if owner is not None:
        for path in (folder, folder / "password"):
            shutil.chown(path, owner)
    data = folder / "data"
    subprocess.run(
        [
            *(bin / "initdb", "-D", data, "-U", "folkmoot", "-A", "scram-sha-256", "--no-sync"),
            *("--pwfile", folder / "password", "-E", "UTF8", "--locale", "C"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        user=owner,
        cwd=folder,
    )
    made = Postgres(folder, free_port(0), "folkmoot", password)
    options = f"-h 127.0.0.1 -p {made.port} -k {folder} -c fsync=off"
    control = [bin / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
    subprocess.run(
        [*control, "-o", options, "start"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=owner,
        cwd=folder,
    )
    yield made
    subprocess.run(
        [*control, "-m", "immediate", "stop"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=owner,
        cwd=folder,
    )
    shutil.rmtree(folder, ignore_errors=True)
