"""Real sites while things break: every run ends as the undisturbed one, or says which sites it lacked.

On the test bed of ``make federation``, as root with network namespaces, a coordinator on PostgreSQL:
processes of coordinator and sites are killed with SIGKILL at random moments of a run, the line to a
site is cut, disks fill up, a site stays away.  Several moments fall into one run, each after the
recovery from the last.  What a service manager does is done here: whatever ended is
started again after some seconds.
Neither masks (whose rounding is random) nor noise, so that two runs have the same digests.

    python -m benchmarks.faults --tracked

What is hit is drawn from ``<seed>-<kind>-<number>``: ``--kinds postgres:1 --first 7`` repeats one.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.breakage import FAULTS, small_disks
from benchmarks.testbed.keeper import Keeper
from benchmarks.testbed.moments import Bench, Settings
from benchmarks.testbed.network import namespaces, possible
from benchmarks.testbed.outcome import DAG, keep_logs
from benchmarks.testbed.postgres import Postgres

KINDS = (*FAULTS, "absent")
#: Of each kind.
MOMENTS = 20


def run(options: argparse.Namespace) -> int:
    database = Postgres(["max_connections=200"])
    try:
        return _run(options, database)
    finally:
        database.stop()


def _run(options: argparse.Namespace, database: Postgres) -> int:
    database.start()
    database.wait()
    for name in ("airflow", "mlflow"):
        database.make(name)
    tracked = options.tracked
    server = {
        "heartbeat_seconds": 20,
        "eager": True,
        "database": database.url("airflow"),
    }
    if tracked:
        server |= {
            "mlflow": "https://localhost:5443",
            "mlflow_database": database.url("mlflow", "postgresql"),
        }
    bed = Testbed(
        options.folder,
        rounds=options.rounds,
        changes=[
            f"tracking.enabled={str(tracked).lower()}",
            f"federation.deadline_seconds={options.deadline}",
        ],
        namespaces=options.inside,
        server=server,
    )
    good = True
    with bed, small_disks(bed):
        bed.enrol(say=lambda text: print(text, flush=True))
        bed.api().wait_dag(DAG, 0.0)
        with Keeper(bed, database) as keeper:
            drawn = Settings(options.seed, options.first, options.gap, options.timeout)
            bench = Bench(bed, database, keeper, drawn)
            bench.calm, _ = bench.train()
            print(f"undisturbed: {bench.calm.state}, {bench.calm.seconds:.0f} s", flush=True)
            if bench.calm.result is None:
                print(f"Nothing can be compared: {bench.calm.why}")
                keep_logs(bed, "undisturbed")
                return 1
            for kind, moments in options.kinds:
                good &= bench.absent() if kind == "absent" else bench.kind(kind, moments)
    return 0 if good else 1


def _kind(word: str) -> tuple[str, int]:
    name, _, number = word.partition(":")
    if name not in KINDS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(KINDS)}")
    return name, int(number or MOMENTS)


def main() -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--folder", type=Path, default=Path(".folkmoot/faults"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first moment")
    told = f"any of {', '.join(KINDS)}; kind:N for other than {MOMENTS} moments"
    parser.add_argument(
        "--kinds", nargs="*", type=_kind, default=[(k, MOMENTS) for k in KINDS], help=told
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gap", type=float, default=5.0, help="most seconds between faults")
    parser.add_argument("--deadline", type=int, default=240, help="of a site's task, in seconds")
    parser.add_argument("--timeout", type=float, default=900.0, help="of a run, in seconds")
    parser.add_argument("--tracked", action="store_true", help="in MLflow, on PostgreSQL too")
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
