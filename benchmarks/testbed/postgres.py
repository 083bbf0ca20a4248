"""A real PostgreSQL on loopback, where its server program is installed."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.hosts.airflow_services import free_port

__all__ = ["Postgres", "programs"]


def programs() -> Path | None:
    """Folder of PostgreSQL's server programs, or None."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += [Path(p) for p in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    return next((f for f in folders if (f / "initdb").exists()), None)


class Postgres:
    """A server in a temporary folder, with a login that owns its databases.

    Parameters
    ----------
    options : sequence of str
        Further settings of the server, ``name=value``.

    Raises
    ------
    FileNotFoundError
        Where PostgreSQL is not installed.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        bin = programs()
        if bin is None:
            raise FileNotFoundError("no PostgreSQL server program: apt-get install postgresql")
        # The server refuses to run as root.
        self._owner = pwd.getpwnam("nobody").pw_name if os.geteuid() == 0 else None
        self._bin, self._options = bin, tuple(options)
        self.folder = Path(tempfile.mkdtemp(prefix="folkmoot-postgres-"))
        self.user, self.password = "folkmoot", secrets.token_urlsafe(12)
        self.port = free_port(0)
        self.process: subprocess.Popen[bytes] | None = None
        (self.folder / "password").write_text(self.password)
        if self._owner is not None:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, self._owner)
        subprocess.run(
            [
                *(bin / "initdb", "-D", self.folder / "data", "-U", self.user),
                *("-A", "scram-sha-256", "--pwfile", self.folder / "password"),
                *("--no-sync", "-E", "UTF8", "--locale", "C"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._owner,
            cwd=self.folder,
        )

    def url(self, database: str, scheme: str = "postgresql+psycopg2", password: str = "") -> str:
        """Where a database is, with its login."""
        login = f"{self.user}:{password or self.password}"
        return f"{scheme}://{login}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server, for the first time or again; returns at once."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(self._bin / "postgres", "-D", self.folder / "data", "-k", self.folder),
                    *("-h", "127.0.0.1", "-p", str(self.port)),
                    *(word for option in self._options for word in ("-c", option)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._owner,
                cwd=self.folder,
                start_new_session=True,
            )

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until the server answers."""
        import psycopg2

        deadline = time.monotonic() + timeout
        while True:
            try:
                psycopg2.connect(self.url("postgres", "postgresql")).close()
                return
            except psycopg2.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def make(self, database: str) -> None:
        """A new, empty database."""
        import psycopg2

        connection = psycopg2.connect(self.url("postgres", "postgresql"))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{database}"')
        connection.close()

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)  # at once, as `pg_ctl stop -m immediate`
            self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)
