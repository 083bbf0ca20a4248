"""What breaks: processes, the line to a site, disks.  Each says what it hit, or None for nothing."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.network import SITES, cut
from benchmarks.testbed.postgres import Postgres

__all__ = ["CUTS", "FAULTS", "Broken", "small_disks"]

#: Seconds that the line to a site is cut for, in turn.
CUTS = (1.0, 5.0, 20.0, 40.0, 60.0)
#: Of a site's disk, and of the exchange store's.
DISK = "96m"


@dataclass(frozen=True)
class Broken:
    """What a fault is given.

    Parameters
    ----------
    bed : Testbed
        Where it happens.
    database : Postgres
        The coordinator's.
    dice : random.Random
        Chooses what is hit.
    number : int
        Of the moment, from 0.
    """

    bed: Testbed
    database: Postgres
    dice: random.Random
    number: int


def _worker(at: Broken) -> str | None:
    """A site's worker, with or without the task that it runs."""
    site, whole = at.dice.choice(SITES), at.dice.random() < 0.5
    if at.bed.running[site].poll() is not None:
        return None
    process = psutil.Process(at.bed.running[site].pid)
    tasks = process.children(recursive=True) if whole else []
    for one in [process, *tasks]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    return f"{site}, {f'with {len(tasks)} processes of its task' if tasks else 'alone'}"


def _service(*names: str) -> Callable[[Broken], str | None]:
    """One of the coordinator's services, told by the file that it logs to."""

    def kill(at: Broken) -> str | None:
        name = at.dice.choice(names)
        if at.bed.running["coordinator"].poll() is not None:
            return None
        for process in psutil.Process(at.bed.running["coordinator"].pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                if os.readlink(f"/proc/{process.pid}/fd/1").endswith(f"/{name}.log"):
                    process.kill()
                    return name
        return None

    return kill


def _postgres(at: Broken) -> str | None:
    """The postmaster, or one backend of Airflow's or MLflow's; the server then ends all the others."""
    process = at.database.process
    if process is None or process.poll() is not None:
        return None
    postmaster = psutil.Process(process.pid)
    backends = [p for p in postmaster.children() if " 127.0.0.1(" in " ".join(p.cmdline())]
    if at.dice.random() < 0.5 or not backends:
        postmaster.kill()
        return "postmaster"
    victim = at.dice.choice(backends)
    told = " ".join(victim.cmdline()).split()
    victim.kill()
    return f"a backend of {'mlflow' if 'mlflow' in told else 'airflow'}"


def _network(at: Broken) -> str | None:
    """The line to a site, for each of ``CUTS`` in turn."""
    site, seconds = at.dice.choice(SITES), CUTS[at.number % len(CUTS)]
    with cut(site):
        time.sleep(seconds)
    return f"{site}, {seconds:.0f} s"


def _full(folder: Path, seconds: float) -> None:
    ballast = folder / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):  # to the last page
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        time.sleep(seconds)
    finally:
        ballast.unlink()


def _site_disk(at: Broken) -> str | None:
    site, seconds = at.dice.choice(SITES), at.dice.uniform(5, 30)
    _full(at.bed.folder / site, seconds)
    return f"{site}, {seconds:.0f} s"


def _store_disk(at: Broken) -> str | None:
    """The file system of the exchange store; every other time for longer than tasks are tried again."""
    seconds = at.dice.uniform(2, 10) if at.number % 2 else at.dice.uniform(30, 60)
    _full(at.bed.workspace / "exchange", seconds)
    return f"{seconds:.0f} s"


#: each API server that a run needs is hit.
FAULTS: dict[str, Callable[[Broken], str | None]] = {
    "worker": _worker,
    "scheduler": _service("scheduler"),
    "api-server": _service("sites-api-server", "task-api-server"),
    "dag-processor": _service("dag-processor"),
    "postgres": _postgres,
    "network": _network,
    "site-disk": _site_disk,
    "store-disk": _store_disk,
}


@contextlib.contextmanager
def small_disks(bed: Testbed) -> Iterator[None]:
    """A small file system for each site and for the exchange store; before anything is in them."""
    store = bed.workspace / "exchange"
    store.mkdir()
    mounted = []
    try:
        for folder in [*(bed.folder / site for site in SITES), store]:
            found = folder.stat()
            kept = bed.folder / "before"
            shutil.copytree(folder, kept, symlinks=True)
            options = (
                f"size={DISK},uid={found.st_uid},gid={found.st_gid},mode={found.st_mode & 0o7777:o}"
            )
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
            mounted.append(folder)
            for path in kept.iterdir():
                subprocess.run(["cp", "-a", path, folder], check=True)
            shutil.rmtree(kept)
        yield
    finally:
        for folder in mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)
