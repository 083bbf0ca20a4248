"""One run at a time in a federation: a lock file that a dead run does not keep for ever."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from folkmoot.errors import RoundError

__all__ = ["acquire", "folder", "holder", "maintain", "maintenance", "release", "touch"]


def folder(workspace: Path, federation: str) -> Path:
    """The coordinator's own folder for a federation."""
    return workspace / "coordinator" / federation


def maintenance(workspace: Path) -> str | None:
    """The note of a maintenance that is going on, or None."""
    try:
        values = json.loads((workspace / "coordinator" / "maintenance.json").read_bytes())
        return str(values.get("note", ""))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError):
        return "its file is damaged"


def maintain(workspace: Path, on: bool, note: str = "") -> None:
    """Open no further run, or open runs again; a run in progress goes on to its end."""
    path = workspace / "coordinator" / "maintenance.json"
    if not on:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"since": int(time.time()), "note": note}), encoding="utf-8")
    os.replace(part, path)


def acquire(workspace: Path, federation: str, run: str, host: str, patience: float) -> None:
    """Make ``run`` the active run.

    Parameters
    ----------
    workspace, federation, run
        Which run.
    host : str
        ``embedded``, ``dvc`` or ``airflow``.  The first two live as long as this process.
    patience : float
        Seconds without a sign of life after which an Airflow run counts as abandoned.

    Raises
    ------
    RoundError
        ``round.busy`` while another run is alive; ``round.maintenance``.
    """
    home = folder(workspace, federation)
    with _exclusive(home):
        active = _read(home)
        note = maintenance(workspace)
        if note is not None and (active is None or active["run"] != run):
            raise RoundError(
                "round.maintenance",
                f"The coordinator is in maintenance and opens no run{f': {note}' if note else ''}.",
                "Wait, or end it: folkmoot coordinator maintenance off",
            )
        if active is not None and active["run"] != run and _alive(home, active, patience):
            raise RoundError(
                "round.busy",
                f"Run {active['run']} of federation {federation} is in progress on the "
                f"{active['host']} host.",
                "Wait until it ends, or stop it; a second federation may run beside it.",
            )
        twice = active is not None and active["run"] == run and active["pid"] != os.getpid()
        if twice and active and active["host"] != "airflow" and _alive(home, active, patience):
            raise RoundError(
                "round.busy",
                f"Run {run} of federation {federation} is already being carried out by "
                f"process {active['pid']}.",
                "Wait until that process ends.",
            )
        pid = os.getpid()
        part = home / "active.part"
        part.write_text(json.dumps({"run": run, "host": host, "pid": pid, "born": _born(pid)}))
        os.replace(part, home / "active.json")


def touch(workspace: Path, federation: str) -> None:
    """A sign of life of the active run."""
    with suppress(FileNotFoundError):
        os.utime(folder(workspace, federation) / "active.json")


def holder(workspace: Path, federation: str) -> str | None:
    """Name of the active run, or None."""
    active = _read(folder(workspace, federation))
    return None if active is None else str(active["run"])


def release(workspace: Path, federation: str, run: str) -> None:
    """End the active run; nothing happens where another one is active."""
    home = folder(workspace, federation)
    with _exclusive(home):
        active = _read(home)
        if active is not None and active["run"] == run:
            (home / "active.json").unlink(missing_ok=True)


@contextmanager
def _exclusive(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / "active.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(home: Path) -> dict[str, Any] | None:
    try:
        values = json.loads((home / "active.json").read_text())
        return {
            "run": str(values["run"]),
            "host": str(values["host"]),
            "pid": int(values["pid"]),
            "born": values.get("born"),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _alive(home: Path, active: dict[str, Any], patience: float) -> bool:
    if active["host"] == "airflow":
        return time.time() - (home / "active.json").stat().st_mtime < patience
    try:
        os.kill(active["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return active["born"] is None or active["born"] == _born(active["pid"])


def _born(pid: int) -> str | None:
    """When a process started (Linux): a process id may be given to another one later."""
    try:
        # Behind the command's name, which may hold anything, start time is field 22 of proc(5).
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
