"""``make federation``: a coordinator and three sites on one machine, as apart as the machine allows.

As root with ``ip``: a network namespace for the coordinator and one per site, each joined to the
coordinator's by a link of its own and routed to its one address alone; and a user of its own for each.
Without, they share the loopback, or this user, and the summary says so.  Everything else is what real
sites use: the commands ``coordinator up``, ``invite``, ``site init``, ``join``, ``up``, a DVC remote and
a folder per site.

A training succeeds; in another a site's disk is full and a worker is killed in its task; in a third a
site fails with an error that holds a row.  Then all that left the sites is searched for what was planted
in their rows, the links' TLS opened with session keys that the sites wrote down, and the search is shown
to find rows that are let out on purpose.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.capture import Capture, capturable, probe
from benchmarks.testbed.network import ADDRESS, NET, SITES, namespaces, possible
from benchmarks.testbed.on_purpose import leak
from benchmarks.testbed.postgres import Postgres, programs
from benchmarks.testbed.report import DATABASES, at_site, open_line, outside, searched
from benchmarks.testbed.users import Users, unprivileged
from pipelines.hosts.airflow_services import free_port

#: Ports that a site must not reach at the coordinator.
OTHERS = (8080, 5432, 22, 8793)
PLAIN = ["federation.deadline_seconds=300", "anonymisation.identifiers=pseudonymise"]
SERVER = {"heartbeat_seconds": 20, "eager": True}


class Summary:
    """Lines of what was seen; every check counts."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.good = True

    def tell(self, what: str, value: object) -> None:
        self.rows.append((what, str(value)))

    def check(self, what: str, good: bool, value: object) -> None:
        self.good = self.good and good
        self.rows.append((what, str(value) if good else f"{value}  <-- WRONG"))

    def show(self) -> int:
        print()
        for what, value in self.rows:
            print(f"{what:34} {value}")
        print("\nThe federation works." if self.good else "\nSOMETHING IS WRONG: see above.")
        return 0 if self.good else 1


def run(options: argparse.Namespace, prefix: str | None) -> int:
    """The federation, its databases on PostgreSQL where that is installed and there is time."""
    told, database = Summary(), None
    if not options.quick and programs() is not None:
        database = Postgres()
    try:
        if database is not None:
            database.start()
            database.wait()
            for name in DATABASES:
                database.make(name)
        return _run(options, prefix, told, database)
    finally:
        if database is not None:
            database.stop()


def _run(
    options: argparse.Namespace, prefix: str | None, told: Summary, database: Postgres | None
) -> int:
    """Trainings over three sites, and the summary."""
    server: dict[str, Any] = dict(SERVER)
    if database is not None:
        server |= {
            "database": database.url("airflow"),
            "mlflow": f"https://localhost:{free_port(0)}",
            "mlflow_database": database.url("mlflow", "postgresql"),
        }
    shared = unprivileged()
    if shared is None and not prefix:
        shared = Users().fault(options.folder)
    changes = [*PLAIN, *([] if options.quick else ["aggregation.protection=masks"])]
    if options.quick:
        changes += ["tracking.enabled=false", "federation.quorum=2"]
    bed = Testbed(
        options.folder,
        rounds=options.rounds,
        changes=changes,
        namespaces=prefix,
        server=server,
        users=shared is None,
        keys=True,
        harmful=True,
    )
    if bed.users is not None:
        shared = bed.users.fault(bed.folder)
        if shared is not None:
            bed.users = None
    links = [f"c{n}" for n, _ in enumerate(SITES, start=1)] if prefix else ["lo"]
    seen = Capture(links, None if prefix else bed.port) if capturable() else None
    with bed:
        began = time.time()
        bed.enrol(say=_say)
        tracked = "none" if options.quick else "SQLite"
        told.tell(
            "databases of Airflow, MLflow",
            "PostgreSQL; MLflow with logins and TLS" if database else f"SQLite, {tracked}",
        )
        told.tell("three sites joined after", f"{time.time() - began:.0f} s")
        ended = _trainings(bed, told, options.quick)
        _apart(bed, told, prefix, shared)
        _say("leaking on purpose")
        planted = leak(bed, ended, mlflow=not options.quick)
        bed.command("coordinator", "revoke", SITES[0])
        home = bed.command("doctor", "--json", "--site", SITES[0], site=SITES[0], check=False)
        refused = "does not know this site" in home
        told.check("revoked site is refused", refused, "yes" if refused else "no")
    places = outside(bed, database)
    if seen is None:
        told.tell("links", "NOT LOOKED AT: this user may not capture packets")
        planted = [one for one in planted if one.channel != "the line"]
    else:
        places |= _line(bed, told, seen, prefix)
    _say("searching")
    size = sum(map(len, places.values())) / 1e6
    canaries = bed.canaries(made=True)
    told.tell("searched", f"{len(canaries)} planted values in {len(places)} places, {size:.0f} MB")
    found, lost = searched(places, canaries, planted)
    told.check("planted values found", not found, "; ".join(found[:5]) or "none")
    channels = list(dict.fromkeys(one.channel for one in planted))
    told.check("leaks on purpose found", not lost, f"{len(planted) - len(lost)} of {len(planted)}")
    told.tell("  made through", ", ".join(channels))
    told.tell("  in the forms", ", ".join(dict.fromkeys(one.form for one in planted)))
    if lost:
        told.tell("  not found", "; ".join(lost))
    return told.show()


def _say(text: str) -> None:
    print(text, flush=True)


# Trainings ----------------------------------------------------------------------------------------


def _trainings(bed: Testbed, told: Summary, quick: bool) -> str:
    """All goes well; then a site fails for a moment and a worker dies; then one fails for good.

    Where it must be quick, the only run loses a site that fails, and goes on by quorum.
    """
    if not quick:
        _say("training")
        done = bed.train()
        good, well = done["state"] == "success", _well(done)
        told.check("undisturbed", good, f"{well}{_pace(done)}")
        _say("training, with a full disk at one site and a worker killed in its task at another")
        bed.harm(SITES[0], "once")
        hung = bed.harm(SITES[1], "hang")
        done = bed.train(conf={"rounds": 2}, meanwhile=lambda: _kill(bed, hung))
        tries = sorted(n for n, t in done["tasks"].items() if t["try_number"] > 1)
        again = all(any(site in name for name in tries) for site in SITES[:2])
        good = done["state"] == "success" and again and hung.exists()
        told.check(
            "full disk, worker killed (-9)", good, f"{_well(done)}, again: {', '.join(tries)}"
        )
    _say("training, with a site that fails with a row in its error")
    bed.harm(SITES[2], "fail")
    done = bed.train(conf={"rounds": 1})
    kept = str(bed.canaries()[f"names of {SITES[2]}"]).encode() in at_site(bed, SITES[2])
    good = done["state"] == ("success" if quick else "failed") and kept
    where = "in" if kept else "NOT IN"
    told.check("error that holds a row", good, f"{_well(done)}; {where} the site's own log")
    shown = bed.shown(done, SITES[2])
    told.check("Airflow shows of it", f"round.site-failed [{SITES[2]}]: " in shown, shown)
    bed.harm(SITES[2], "")
    return str(done["dag_run"])


def _well(done: dict[str, Any]) -> str:
    states = [t["state"] for n, t in done["tasks"].items() if "clinic" in n]
    well = f"{states.count('success')} of {len(states)} site tasks well"
    return f"{done['state']}, {done['seconds']:.0f} s, {well}"


def _pace(done: dict[str, Any]) -> str:
    ends = {
        name: datetime.fromisoformat(task["end_date"]).timestamp()
        for name, task in done["tasks"].items()
        if task["end_date"]
    }
    closed = sorted(t for n, t in ends.items() if ".aggregate" in n or n == "initialise")
    if len(closed) < 2:
        return ""
    each = (closed[-1] - closed[0]) / (len(closed) - 1)
    return f", {each:.1f} s a round"


def _kill(bed: Testbed, hung: Path) -> None:
    """Kill the worker with all it runs once it hangs in a task, and start it again, well."""
    deadline = time.monotonic() + 300
    while not hung.exists():
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)
    process = psutil.Process(bed.running[SITES[1]].pid)
    for one in [process, *process.children(recursive=True)]:
        one.send_signal(signal.SIGKILL)
    bed.end(SITES[1], hard=True)
    (bed.folder / SITES[1] / "harm").write_text("")
    bed.start(SITES[1])


# What was seen ------------------------------------------------------------------------------------


def _apart(bed: Testbed, told: Summary, prefix: str | None, shared: str | None) -> None:
    if prefix:
        others = [f"{ADDRESS}:{port}" for port in OTHERS] + [f"{NET}.2.2:22", "1.1.1.1:443"]
        door = f"{ADDRESS}:{bed.port}"
        found = probe(bed, SITES[0], [door, *others])
        reached = [target for target, state in found.items() if state == "open"]
        told.check("a site reaches", reached == [door], ", ".join(reached))
    nets = "network namespaces, links and routes" if prefix else "NO NETWORK: loopback"
    told.tell("sites are kept apart by", nets)
    if bed.users is None:
        told.tell("users", f"ONE FOR ALL ({shared})")
        return
    names = [*SITES, "coordinator"]
    told.tell("users", ", ".join(f"{n} is {bed.users.numbers[n]}" for n in names))
    own = [n for n in names if not bed.users.reads(n, bed.folder / n)]
    into = [f"{a} reads {b}" for a in names for b in names if a != b
            and bed.users.reads(a, bed.folder / b)]  # fmt: skip
    keys = [bed.session_keys(site) for site in SITES]
    into += [f"{b} reads {k}" for k in keys for b in names
             if k.parent.name != b and bed.users.reads(b, k)]  # fmt: skip
    tried = len(names) * (len(names) - 1) + len(keys) * (len(names) - 1)
    told.check(
        "who reads another's folder",
        not into and not own,
        "; ".join([*into, *(f"{n} does not read its own" for n in own)])
        or f"nobody: {tried} attempts as these users",
    )


def _line(bed: Testbed, told: Summary, seen: Capture, prefix: str | None) -> dict[str, bytes]:
    seen.stop()
    seen.save(bed.folder / "capture.pcap")
    line = open_line(bed, seen)
    size = sum(map(len, seen.packets)) / 1e6
    told.check(
        "captured at the coordinator",
        not seen.lost,
        f"{len(seen.packets)} packets, {size:.1f} MB, {line.connections} connections"
        + (f", {seen.lost} LOST" if seen.lost else ""),
    )
    whole = line.read == line.records > 0 and not line.faults
    share = f"{line.read} of {line.records} records, {line.plain / 1e6:.2f} MB"
    told.check("of that decrypted", whole, share)
    for fault in line.faults[:10]:
        told.tell("  not decrypted", fault)
    if prefix:
        good = seen.ports == {bed.port, *OTHERS}
        told.check("ports that sites asked for", good, ", ".join(map(str, sorted(seen.ports))))
    return line.places


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".folkmoot/federation"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--loopback", action="store_true", help="no namespaces")
    parser.add_argument(
        "--quick", action="store_true", help="no masks, no MLflow, nothing killed; for the tests"
    )
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return run(options, options.inside)
    why = "asked for" if options.loopback else possible()
    if why:
        print(f"Without network namespaces ({why}): all sites share the loopback.")
        return run(options, None)
    with namespaces() as prefix:
        command = [sys.executable, "-m", "benchmarks.federation", "--inside", prefix, *sys.argv[1:]]
        done = subprocess.run(["ip", "netns", "exec", f"{prefix}-c", *command], check=False)
        return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
