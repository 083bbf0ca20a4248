"""``make federation``: a coordinator and three sites on one machine, as apart as the machine allows.

As root with ``ip``: a network namespace for the coordinator and one per site, each joined to the
coordinator's by a link of its own and routed to its one address alone.  Without, all of them share this
user and the loopback, and the summary says so.  Everything else is what real sites use: the commands
``coordinator up``, ``invite``, ``site init``, ``join``, ``up``, a DVC remote and a folder per site.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.capture import Capture, probe
from benchmarks.testbed.network import ADDRESS, NET, SITES, namespaces, possible
from benchmarks.testbed.report import outside, search


def run(folder: Path, rounds: int, prefix: str | None) -> int:
    """One training over three sites, and the summary."""
    from datetime import datetime

    rows: list[tuple[str, str]] = []
    masked = ["aggregation.protection=masks", "federation.deadline_seconds=300"]
    capture = Capture([f"c{n}" for n, _ in enumerate(SITES, start=1)]) if prefix else None
    with Testbed(folder, rounds=rounds, changes=masked, namespaces=prefix) as bed:
        canaries = bed.canaries()
        began = time.time()
        bed.enrol(say=lambda text: print(text, flush=True))
        rows.append(("three sites joined after", f"{time.time() - began:.0f} s"))
        if prefix:
            others = [f"{ADDRESS}:{port}" for port in (8080, 5432, 22, 8793)]
            others += [f"{NET}.2.2:22", "1.1.1.1:443"]
            found = probe(bed, SITES[0], [f"{ADDRESS}:{bed.port}", *others])
            reached = [target for target, state in found.items() if state == "open"]
            rows.append(("a site reaches", ", ".join(reached)))
        print("training", flush=True)
        done = bed.train()
        rows.append(("DAG run", f"{done['state']}, {done['seconds']:.0f} s"))
        ends = {
            name: datetime.fromisoformat(task["end_date"]).timestamp()
            for name, task in done["tasks"].items()
            if task["end_date"]
        }
        closed = sorted(t for n, t in ends.items() if ".aggregate" in n or n == "initialise")
        if len(closed) > 1:
            each = (closed[-1] - closed[0]) / (len(closed) - 1)
            rows.append(("seconds a round", f"{each:.1f} over {len(closed) - 1} rounds"))
        at_sites = [t for n, t in done["tasks"].items() if "clinic" in n]
        rows.append(
            (
                "site tasks",
                f"{sum(t['state'] == 'success' for t in at_sites)} of {len(at_sites)} well",
            )
        )
        bed.command("coordinator", "revoke", SITES[0])
        home = bed.command("doctor", "--json", "--site", SITES[0], site=SITES[0], check=False)
        refused = "does not know this site" in home
        rows.append(("revoked site is refused", "yes" if refused else "NO"))
    places = outside(bed, capture)
    if capture is not None:
        capture.stop()
        rows.append(
            ("packets captured", f"{capture.packets}, {len(capture.data) / 1e6:.1f} MB (TLS)")
        )
        rows.append(("ports that sites asked for", ", ".join(map(str, sorted(capture.ports)))))
    leaked = search(places, canaries)
    rows.append(
        (
            "files searched for canaries",
            f"{len(places)}, {sum(map(len, places.values())) / 1e6:.0f} MB",
        )
    )
    rows.append(("canaries found", ", ".join(leaked) or "none"))
    name = next(iter(canaries.values()))
    blind = [
        place
        for place in places
        if not search({place: places[place] + str(name).encode()}, {"x": name})
    ][:3]
    rows.append(("places where the search is blind", ", ".join(blind) or "none"))
    apart = "network namespaces, links and routes" if prefix else "NOTHING BUT FOLDERS: loopback"
    rows.append(("sites are kept apart by", f"{apart}; one user for all"))
    print()
    for what, value in rows:
        print(f"{what:36} {value}")
    good = done["state"] == "success" and not leaked and not blind and refused
    if prefix and capture is not None:
        good = good and capture.ports == {bed.port} | {8080, 5432, 22, 8793}
    print("\nThe federation works." if good else "\nSOMETHING IS WRONG: see above.")
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".folkmoot/federation"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--loopback", action="store_true", help="no namespaces")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return run(options.folder, options.rounds, options.inside)
    why = "asked for" if options.loopback else possible()
    if why:
        print(f"Without network namespaces ({why}): all sites share the loopback.")
        return run(options.folder, options.rounds, None)
    with namespaces() as prefix:
        command = [sys.executable, "-m", "benchmarks.federation", "--inside", prefix]
        command += ["--folder", str(options.folder), "--rounds", str(options.rounds)]
        done = subprocess.run(["ip", "netns", "exec", f"{prefix}-c", *command], check=False)
        return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
