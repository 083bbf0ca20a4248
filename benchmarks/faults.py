"""Real sites while things break: every run ends as the undisturbed one, or says which sites it lacked.

On the test bed of ``make federation``, as root with network namespaces: processes of coordinator and
sites are killed with SIGKILL at random moments of a run, the network to a site is cut for 1 to 60 s, a
site's disk fills up.  What a service manager does is done here: a command that ended is started again
after some seconds.  Neither masks (whose rounding is random) nor noise, so that two runs have the same
digests.

    python -m benchmarks.faults --moments 20
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import row
from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.network import SITES, cut, namespaces, possible

DAG = "federated_linear"
#: Killed at the coordinator, as the folder of their logs names them.
SERVICES = ("scheduler", "sites-api-server", "task-api-server", "dag-processor")
KINDS = ("worker", *SERVICES, "network", "disk")
#: Seconds after which a service manager starts a command again (``deploy/systemd``).
AGAIN = 5.0
DISK = "96m"


class Keeper:
    """What a service manager does: whatever ended is started again."""

    def __init__(self, bed: Testbed) -> None:
        self._bed, self.restarts = bed, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.5):
            for name in [n for n, p in self._bed.running.items() if p.poll() is not None]:
                if self._over.wait(AGAIN):
                    return
                said = self._bed.log(name).read_text(errors="replace")
                with (self._bed.folder / "restarts.log").open("a") as file:
                    file.write(f"--- {name}\n{said[-2000:]}\n")
                self.restarts += 1
                self._bed.start(name)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()


# Faults -------------------------------------------------------------------------------------------


def kill_worker(bed: Testbed, dice: random.Random) -> str:
    """A site's worker, with or without the task that it runs."""
    site, whole = dice.choice(SITES), dice.random() < 0.5
    process = psutil.Process(bed.running[site].pid)
    tree = [process, *process.children(recursive=True)]
    for one in tree if whole else tree[:2]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    return f"{site}, {'with' if whole else 'without'} its task"


def kill_service(name: str) -> Callable[[Testbed, random.Random], str]:
    def kill(bed: Testbed, dice: random.Random) -> str:
        for process in psutil.Process(bed.running["coordinator"].pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                log = os.readlink(f"/proc/{process.pid}/fd/1")
                if log.endswith(f"/{name}.log"):
                    process.send_signal(signal.SIGKILL)
                    return f"pid {process.pid}"
        return "was not running"

    return kill


def cut_network(bed: Testbed, dice: random.Random) -> str:
    site, seconds = dice.choice(SITES), dice.uniform(1, 60)
    with cut(site):
        time.sleep(seconds)
    return f"{site}, {seconds:.0f} s"


def fill_disk(bed: Testbed, dice: random.Random) -> str:
    site, seconds = dice.choice(SITES), dice.uniform(5, 30)
    ballast = bed.home(site).parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    time.sleep(seconds)
    ballast.unlink()
    return f"{site}, {seconds:.0f} s"


FAULTS: dict[str, Callable[[Testbed, random.Random], str]] = {
    "worker": kill_worker,
    "network": cut_network,
    "disk": fill_disk,
    **{name: kill_service(name) for name in SERVICES},
}


# A run --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its state, what came out, seconds, and why where it failed."""

    state: str
    result: tuple[str, ...] | None
    seconds: float
    why: str = ""

    def same(self, other: Outcome) -> bool:
        return self.state == "success" and self.result == other.result

    @property
    def quorum(self) -> bool:
        return self.state == "failed" and self.why == "round.quorum"


def train(bed: Testbed, disturb: Callable[[], None] | None, timeout: float) -> Outcome:
    """One DAG run, told apart from others by its folder in the exchange store."""
    runs = bed.workspace / "exchange" / bed.params.federation.name / "runs"
    before = set(os.listdir(runs)) if runs.exists() else set()
    api = bed.api()
    run = api.trigger(DAG)
    began = time.monotonic()
    thread = threading.Thread(target=disturb) if disturb else None
    if thread:
        thread.start()
    state = "running"
    while state not in {"success", "failed"} and time.monotonic() - began < timeout:
        time.sleep(1.0)
        try:
            state = api.dag_run(DAG, run)["state"]
        except Exception:  # the coordinator is being started again
            with contextlib.suppress(Exception):
                api.close()
            api = bed.api()
    seconds = time.monotonic() - began
    if thread:
        thread.join()
    made = sorted(set(os.listdir(runs)) - before)
    result = digests(runs / made[-1]) if made and state == "success" else None
    why = "" if state == "success" else _why(bed, run)
    return Outcome(state, result, seconds, why)


def digests(run: Path) -> tuple[str, ...]:
    """Of the arrays of every round's model (names of runs differ), and of the final metrics."""
    from folkmoot.wire import canonical_json, decode

    found = []
    for file in sorted(run.glob("round-*/model")):
        arrays = decode(file.read_bytes()).arrays
        hashed = hashlib.sha256()
        for name in sorted(arrays):
            hashed.update(name.encode() + arrays[name].tobytes())
        found.append(hashed.hexdigest())
    told = json.loads((run / "final" / "result.json").read_text())
    return (*found, hashlib.sha256(canonical_json(told["metrics"])).hexdigest())


def _why(bed: Testbed, run: str) -> str:
    """The first of the project's error codes in the logs of the coordinator's tasks."""
    from folkmoot.errors import CODES

    folder = bed.workspace / "airflow" / "logs" / f"dag_id={DAG}" / f"run_id={run}"
    logs = sorted(folder.rglob("*.log"), key=lambda path: path.stat().st_mtime)
    text = "\n".join(path.read_text(errors="replace") for path in logs)
    found = [code for code in ("round.quorum", *CODES) if code in text]
    return found[0] if found else "no reason found"


def verified(bed: Testbed) -> bool:
    """Whether the ledgers of all sites are whole."""
    try:
        for site in SITES:
            bed.command("ledger", "verify", site, site=site)
    except Exception as error:
        print(error)
        return False
    return True


@contextlib.contextmanager
def small_disks(bed: Testbed) -> Iterator[None]:
    """A small file system for each site; it is gone with the namespace at the latest."""
    mounted = []
    try:
        for site in SITES:
            folder = bed.folder / site
            rows = (folder / "rows.parquet").read_bytes()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True
            )
            mounted.append(folder)
            (folder / "rows.parquet").write_bytes(rows)
        yield
    finally:
        for folder in mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def table(
    bed: Testbed, keeper: Keeper, calm: Outcome, options: argparse.Namespace
) -> tuple[bool, list[tuple[str, str, int]]]:
    """All kinds of faults at all moments; whether nothing else came of them, and a line per kind."""
    dice, span, wrong = random.Random(options.seed), calm.seconds, 0
    lines: list[tuple[str, str, int]] = []
    for kind in options.kinds:
        same = quorum = other = 0
        for number in range(options.moments):
            moment = dice.uniform(0.03, 0.9) * span
            said: list[str] = []

            def disturb(moment: float = moment, kind: str = kind, said: Any = said) -> None:
                time.sleep(moment)
                said.append(FAULTS[kind](bed, dice))

            restarts = keeper.restarts
            ended = train(bed, disturb, options.timeout)
            whole, span = verified(bed), min(span, ended.seconds)
            fine = whole and (ended.same(calm) or ended.quorum)
            same, quorum, other = (
                same + (fine and ended.same(calm)),
                quorum + (fine and ended.quorum),
                other + (not fine),
            )
            verdict = "same digests" if ended.same(calm) else ended.why or "OTHER DIGESTS"
            late = " after its end" if ended.seconds < moment else ""
            print(
                f"{kind:18} {number + 1:2} at {moment:4.0f} s{late} ({', '.join(said)}): "
                f"{ended.state}, {verdict}, {ended.seconds:.0f} s, "
                f"{keeper.restarts - restarts} restarts, "
                f"ledgers {'verified' if whole else 'DAMAGED'}",
                flush=True,
            )
        wrong += other
        lines.append((kind, f"{same} / {quorum} / {other}", options.moments))
    return not wrong, lines


def run(options: argparse.Namespace) -> int:
    changes = ["tracking.enabled=false"]
    changes += [f"federation.deadline_seconds={options.deadline}"]
    bed = Testbed(
        options.folder,
        rounds=options.rounds,
        changes=changes,
        namespaces=options.inside,
        server={"heartbeat_seconds": 20, "eager": True},
    )
    with bed, small_disks(bed):
        bed.enrol(say=lambda text: print(text, flush=True))
        bed.api().wait_dag(DAG, 0.0)
        calm = train(bed, None, options.timeout)
        print(f"undisturbed: {calm.state}, {calm.seconds:.0f} s", flush=True)
        if calm.state != "success" or calm.result is None:
            print("Nothing can be compared.")
            return 1
        with Keeper(bed) as keeper:
            good, lines = table(bed, keeper, calm, options)
    row(
        "faults at random moments of a run over three sites: as undisturbed / quorum error / else",
        "; ".join(f"{kind} {found} of {count}" for kind, found, count in lines),
        "nothing else, ledgers verified",
        met=good,
    )
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".folkmoot/faults"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--moments", type=int, default=2, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=int, default=240, help="of a site's task, in seconds")
    parser.add_argument("--timeout", type=float, default=900.0, help="of a run, in seconds")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return run(options)
    why = possible()
    if why:
        print(f"Without network namespaces ({why}) there is nothing to break.")
        return 1
    with namespaces() as prefix:
        command = [sys.executable, "-m", "benchmarks.faults", "--inside", prefix, *sys.argv[1:]]
        done = subprocess.run(["ip", "netns", "exec", f"{prefix}-c", *command], check=False)
        return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
