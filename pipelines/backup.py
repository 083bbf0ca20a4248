"""Backup and restore of a coordinator: keys, members, anchors, exchange store, databases.

One tar file (mode 0600) with a manifest of SHA-256 digests.  Databases are copied first, each at one
moment, by the means of its own engine (``pg_dump``; SQLite's backup); the exchange store after them: its
artefacts are written once, so that a copy holds at least what the databases know of.  What is removed
meanwhile, such as sums of a tree that stands, is not in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from folkmoot.errors import ConfigError, ProtocolError, TransientError
from folkmoot.params import Params
from pipelines.hosts.database import shown
from pipelines.hosts.server_settings import load_settings

__all__ = ["backup", "restore"]

MANIFEST = "manifest.json"
#: Made anew at every start, of one machine alone, or (invitations) good for once.
_LEFT_OUT = {
    "invitations.json",
    "services.lock",
    "airflow.cfg",
    "database-version",
    "logs",
    "refusals.json",
    ".uploads",
}
#: SQLite files of a workspace, by what they hold.
_FILES = ("airflow/airflow.db", "coordinator/mlflow.db", "coordinator/mlflow/logins.db")
_DATABASES = ("database", "mlflow_database")


def backup(params: Params, workspace: Path, target: Path) -> int:
    """Write a backup of the coordinator's workspace; returns the number of files in it.

    Parameters
    ----------
    params : Params
        The federation's; an exchange store elsewhere (``federation.exchange``) is not copied.
    workspace : Path
        The coordinator's.
    target : Path
        A new file.

    Raises
    ------
    ConfigError
        Where the target exists, or ``pg_dump`` is missing.
    TransientError
        Where a database cannot be copied.
    """
    if target.exists():
        raise ConfigError("config.invalid", f"{target} exists.", "Name a new file.")
    settings = load_settings(workspace)
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".backup-") as folder:
        stage = Path(folder)
        for name in _DATABASES:
            url = settings.database_url(name)
            if url is not None and not url.startswith("sqlite"):
                _postgres("pg_dump", url, "--format=custom", f"--file={stage / f'{name}.dump'}")
        for file in _FILES:
            if (workspace / file).exists():
                _copy(workspace / file, stage / "workspace" / file)
        for name in ("roster.toml", "coordinator", "airflow", "exchange"):
            if (workspace / name).is_dir():
                shutil.copytree(
                    workspace / name,
                    stage / "workspace" / name,
                    dirs_exist_ok=True,
                    ignore=_ignored,
                    copy_function=_copied,
                )
            elif (workspace / name).exists():
                (stage / "workspace").mkdir(exist_ok=True)
                shutil.copy2(workspace / name, stage / "workspace" / name)
        files = sorted(p for p in stage.rglob("*") if p.is_file())
        digests = {str(p.relative_to(stage)): _digest(p) for p in files}
        (stage / MANIFEST).write_text(json.dumps(digests, indent=1))
        part = target.with_name(target.name + ".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
                for name in [MANIFEST, *digests]:
                    tar.add(stage / name, name, recursive=False)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, target)
    return len(digests)


def restore(source: Path, workspace: Path, *, databases: bool = True) -> list[str]:
    """Bring a backup back into an empty workspace; returns what was restored.

    Everything is checked against the manifest before anything is put in its place.

    Parameters
    ----------
    source : Path
        What :func:`backup` wrote.
    workspace : Path
        Must not hold a coordinator.
    databases : bool
        Whether PostgreSQL databases that ``server.toml`` names are overwritten too.

    Raises
    ------
    ConfigError
        Where the workspace is in use, or ``pg_restore`` is missing.
    ProtocolError
        ``protocol.digest`` for a damaged backup; nothing was changed.
    """
    if (workspace / "coordinator").exists():
        raise ConfigError(
            "config.invalid",
            f"{workspace} holds a coordinator.",
            "Restore into an empty workspace; move the present one aside first.",
        )
    workspace.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace, prefix=".restore-") as folder:
        stage = Path(folder)
        try:
            with tarfile.open(source) as tar:
                tar.extractall(stage, filter="data")
            digests = json.loads((stage / MANIFEST).read_text())
            found = {str(p.relative_to(stage)): p for p in stage.rglob("*") if p.is_file()}
            del found[MANIFEST]
            whole = found.keys() == digests.keys() and all(
                _digest(path) == digests[name] for name, path in found.items()
            )
        except (OSError, EOFError, tarfile.TarError, ValueError, KeyError):
            whole = False
        if not whole:
            raise ProtocolError(
                "protocol.digest",
                f"{source} is damaged: nothing was restored.",
                "Take another backup.",
            )
        told = []
        settings = load_settings(stage / "workspace")
        for name in _DATABASES if databases else ():
            dump, url = stage / f"{name}.dump", settings.database_url(name)
            if dump.exists() and url is not None:
                _postgres(
                    "pg_restore", url, "--clean", "--if-exists", "--no-owner", "--exit-on-error",
                    "--single-transaction", f"--dbname={_part(url)['PGDATABASE']}", str(dump),
                )  # fmt: skip
                told.append(shown(url))
        for path in (stage / "workspace").iterdir():
            shutil.move(path, workspace / path.name)
            told.append(path.name)
    return sorted(told)


def _copy(source: Path, target: Path) -> None:
    """A SQLite database as of one moment, its write-ahead log included."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
    shutil.copymode(source, target)


def _ignored(folder: str, names: list[str]) -> set[str]:
    databases = {Path(file).name for file in _FILES}
    return {
        name
        for name in names
        if name in _LEFT_OUT
        or name.endswith((".lock", ".part", ".pid"))
        or any(name == d or name.startswith(f"{d}-") for d in databases)
    }


def _copied(source: str, target: str) -> None:
    """Copy a file, unless it was removed since its folder was listed."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def _part(url: str) -> dict[str, str]:
    """The parts of a URL as libpq's environment: a password is on no command line."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    found = {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path.strip("/"),
    }
    return {name: value for name, value in found.items() if value}


def _postgres(program: str, url: str, *arguments: str) -> None:
    if shutil.which(program) is None:
        raise ConfigError(
            "config.installation",
            f"{program} is not installed.",
            "apt-get install postgresql-client",
        )
    done = subprocess.run(
        [program, "--no-password", *arguments],
        env={**os.environ, **_part(url)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise TransientError(
            "transient.service",
            f"{program} failed for {shown(url)} ({said[-1][:200] if said else 'no message'}).",
            "Check that the database answers and that the program is not older than its server.",
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
