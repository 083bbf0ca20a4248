"""Kill -9 at random moments of a training, again and again, and start again until it is done.

A federation of two sites trains under noise in a child process.  Each run starts on a fresh copy
of the workspace; the child is killed (SIGKILL) after a random time, what it left is looked at, and
the next child goes on, until the run is done or enough were killed.

What must hold: no release was drawn twice under one charge (bytes that were stored or published
never change), no charge is lost (every published release has a reservation of its own) or doubled
(one reservation per release and attempt, and further attempts only where no bytes had been stored),
every ledger verifies, and all runs without kills in them and with them end with the same digest:
the noise is from a seed here, which changes nothing in how a release is made.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import site_tasks.evaluate
import site_tasks.prepare
import site_tasks.train_linear  # noqa: F401  # before the fork: kills fall into the work
from benchmarks.report import row
from folkmoot.params import parse_params
from folkmoot.privacy.ledger import Ledger
from pipelines.hosts import embedded
from site_tasks.home import SiteHome
from site_tasks.release import check_releases

KILLS = 500
SITES = ("site-a", "site-b")
SETTINGS = {
    "federation": {"sites": list(SITES)},
    "data": {"recipe": "breast_cancer", "scaling": "bounds"},
    "model": {"linear": {"strategy": "fedavg", "rounds": 12, "early_stopping": {"tolerance": 0.0}}},
    "privacy": {"mechanism": "gaussian", "noise_multiplier": 2.0, "seeded": True},
    "aggregation": {"weighting": "uniform"},
    "tracking": {"enabled": False},
}
RUN = "crash"


@dataclass
class Tally:
    """What was seen over all trials."""

    kills: int = 0
    runs: int = 0
    double_noise: int = 0
    lost: int = 0
    doubled: int = 0
    abandoned: int = 0
    digests: set[str] = field(default_factory=set)


def main(kills: int) -> None:
    tally = crash(kills, random.Random())
    fine = tally.double_noise == tally.lost == tally.doubled == 0 and len(tally.digests) == 1
    row(
        f"crash test: kill -9 at {tally.kills} random points over train, release and ledger",
        f"{tally.double_noise} double noise, {tally.lost} lost and {tally.doubled} doubled charges, "
        f"{len(tally.digests)} digest over {tally.runs} runs ({tally.abandoned} reservations stayed "
        "spent without a release)",
        "0, 0, 0, 1 digest",
        met=fine and tally.kills >= kills,
    )


def crash(kills: int, chance: random.Random) -> Tally:
    """Run, kill and resume until ``kills`` processes were killed; then once more without a kill."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        prototype = Path(folder, "prototype")
        make_sites(prototype)
        undisturbed = shutil.copytree(prototype, Path(folder, "undisturbed"), symlinks=True)
        digest, _ = finish(undisturbed, None)
        tally.digests.add(str(digest))
        for name in SITES:  # prepared rows are no part of the trial
            work = Path("sites", name, "private", "work")
            shutil.copytree(undisturbed / work, prototype / work, dirs_exist_ok=True)
        again = shutil.copytree(prototype, Path(folder, "again"), symlinks=True)
        _, seconds = finish(again, None)
        while tally.kills < kills:
            workspace = shutil.copytree(prototype, Path(folder, "trial"), symlinks=True)
            seen: dict[str, bytes] = {}
            digest = None
            while digest is None:
                left = chance.uniform(0, seconds / 2) if tally.kills < kills else None
                digest, _ = finish(workspace, left)
                tally.kills += digest is None
                look(workspace, seen, tally)
            tally.runs += 1
            tally.digests.add(digest)
            settle(workspace, tally)
            shutil.rmtree(workspace)
            sys.stdout.write(f"{tally.kills} kills, {tally.runs} runs\n")
            sys.stdout.flush()
    return tally


def make_sites(workspace: Path) -> None:
    """The sites, once for all trials; in another process, so that this one stays fit to fork."""
    code = (
        "import json, sys\n"
        "from folkmoot.params import parse_params\n"
        "from pipelines.simulation import ensure_sites\n"
        "ensure_sites(parse_params(json.loads(sys.argv[1])), sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(SETTINGS), str(workspace)], check=True)


def finish(workspace: Path, kill_after: float | None) -> tuple[str | None, float]:
    """Run or resume in a child; digest of the model (None: it was killed), and the seconds."""
    read, write = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            result = embedded.run(parse_params(SETTINGS), run=RUN, workspace=workspace)
            os.write(write, result["model_digest"].encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)  # a child that is done stays until it is waited for
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError("a resumed run failed")
    return text or None, time.perf_counter() - began


def look(workspace: Path, seen: dict[str, bytes], tally: Tally) -> None:
    """Bytes of a release that were stored or published once must never become others."""
    for name in SITES:
        folder = workspace / "sites" / name / "private" / "releases"
        stored = [p for p in folder.glob("*") if not p.name.startswith(".")]
        out = workspace / "exchange" / "demo" / "runs" / RUN
        published = [p for p in out.rglob(f"*-{name}") if p.is_file()]
        for path in (*stored, *published):
            key, data = str(path), path.read_bytes()
            tally.double_noise += seen.setdefault(key, data) != data


def settle(workspace: Path, tally: Tally) -> None:
    """Hold every ledger to what was published at the end."""
    for name in SITES:
        home = SiteHome.find(name, workspace)
        ledger = Ledger(home.ledger_path, name)
        ledger.verify()
        check_releases(home, ledger)
        entries = ledger.entries()
        rounds = SETTINGS["model"]["linear"]["rounds"]  # type: ignore[index,call-overload]
        reserved = [(e.release_id, e.attempt) for e in entries if e.kind == "reserve"]
        charged = {release for release, _ in reserved}
        commits = [e.release_id for e in entries if e.kind == "commit"]
        given_up = [e.release_id for e in entries if e.kind == "abandon"]
        tally.abandoned += len(given_up)
        tally.lost += rounds - len(charged & set(commits))
        tally.doubled += len(reserved) - len(set(reserved))
        tally.doubled += len(commits) - len(set(commits))
        tally.doubled += len(reserved) - rounds - len(given_up)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else KILLS)
