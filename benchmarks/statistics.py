"""Overlap of two sites' people, and figures from three computing sites, beside other libraries' times.

Both sites of an overlap run one after the other here, each on all cores, as if each had this machine.
CPU seconds are told as well, since the machine may be busy.  The compared figures come from other
machines and runs; they are no goals.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.report import row
from folkmoot.secure import psi
from folkmoot.statistics.shared import AREA_BITS, FIELD, from_bytes, split


def main(people: tuple[int, ...], bins: int) -> None:
    for count, other in zip(
        people, ("openmined-psi: 18 s", "SecretFlow's RR22: 2.4 s"), strict=False
    ):
        overlap(count, other)
    computed(bins)


def overlap(count: int, other: str) -> None:
    """Two sets of ``count`` people, a tenth of them in both."""
    shared = count // 10
    left = [b"person %d" % i for i in range(count)]
    right = [b"person %d" % (i + count - shared) for i in range(count)]
    seconds: dict[str, float] = {}
    wall = time.perf_counter()

    def lap(name: str, what: Callable[[], Any]) -> Any:
        began = time.process_time()
        made = what()
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
        return made

    scalars = [os.urandom(32), os.urandom(32)]
    sent = []
    for items, scalar in zip((left, right), scalars, strict=True):
        points = lap("hash", lambda items=items: psi.hash_to_curve(items, b"benchmark"))
        blinded = lap("blind", lambda p=points, s=scalar: psi.blind(p, s))
        sent.append(lap("shuffle", lambda b=blinded: psi.shuffled(b)))
    twice = []
    for data, scalar in zip(sent, reversed(scalars), strict=True):
        points = [data[i : i + psi.POINT] for i in range(0, len(data), psi.POINT)]
        again = lap("blind again", lambda p=points, s=scalar: psi.blind(p, s))
        twice.append(lap("digest", lambda a=again: psi.digests(a, b"benchmark")))
    found = lap("compare", lambda: psi.intersection_size(*twice))
    assert found == shared, found
    site = (sum(seconds.values()) - seconds["compare"]) / 2
    wall = time.perf_counter() - wall
    parts = ", ".join(f"{name} {value / 2:.1f}" for name, value in seconds.items() if value > 0.2)
    row(
        f"overlap of {count:,} x {count:,} people, two-party: CPU seconds at a site",
        f"{site:.1f} s ({parts}), over all cores; both sites and the coordinator one after the other "
        f"{wall:.1f} s of wall time, {(2 * psi.POINT + 2 * psi.DIGEST) * count / 1e6:.0f} MB sent",
        f"({other})",
        met=None,
    )


def computed(bins: int) -> None:
    """A median and an area over four sites' counts, by three processes of MPyC on loopback."""
    rng = np.random.default_rng(0)
    values = [rng.integers(0, bins, 5000) for _ in range(4)]
    wrong = [rng.integers(0, bins, 3000) for _ in range(4)]
    right = [rng.integers(bins // 4, bins, 2000) for _ in range(4)]
    counts = [
        np.concatenate([np.bincount(one, minlength=bins) for one in site])
        for site in zip(values, wrong, right, strict=True)
    ]
    began = time.perf_counter()
    shares = [split(one) for one in counts]
    splitting = (time.perf_counter() - began) / len(counts)
    sums = [
        [sum(column) % FIELD for column in zip(*(from_bytes(s[i]) for s in shares), strict=True)]
        for i in range(3)
    ]
    median = {"kind": "median", "bins": bins, "start": 0, "end": bins}
    area = {"kind": "auc", "bins": bins, "start": bins, "end": 3 * bins}
    nothing = min(timed(sums, [])[2] for _ in range(3))
    for name, figure, other in (
        ("median", median, "(mpyc, of a few numbers: 0.2 s)"),
        ("area under the curve", area, ""),
    ):
        runs = [timed(sums, [figure]) for _ in range(3)]
        assert len({json.dumps(opened) for _, opened, _ in runs}) == 1
        expected = float(np.sort(np.concatenate(values))[(4 * 5000 - 1) // 2])
        if figure is median:
            assert runs[0][1] == [expected]
        else:
            assert 0.5 < runs[0][1][0] / 2**AREA_BITS < 1
        took = sorted(seconds for seconds, _, _ in runs)
        work = min(cpu for _, _, cpu in runs) - nothing
        row(
            f"secure {name} over {bins} bins, four sites, three computing: seconds",
            f"{work:.2f} CPU s of all three beside {nothing:.1f} to start them; wall best "
            f"{took[0]:.2f} s, median {statistics.median(took):.2f} s; sharing {splitting * 1e3:.0f} ms "
            "a site",
            other,
            met=None,
        )


def timed(sums: list[list[int]], figures: list[dict[str, Any]]) -> tuple[float, list[Any], float]:
    """Seconds from start to end of the three processes, what they opened, their CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ports = [socket.socket() for _ in range(3)]
    for one in ports:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in ports]
    for one in ports:
        one.close()
    began = time.perf_counter()
    command = [sys.executable, "-m", "site_tasks.measure.party"]
    pipe = subprocess.PIPE
    parties = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        for _ in range(3)
    ]
    for index, party in enumerate(parties):
        job = {
            "addresses": addresses,
            "index": index,
            "bits": 90,
            "area_bits": AREA_BITS,
            "least": 5,
            "shares": list(map(str, sums[index])),
            "figures": figures,
        }
        assert party.stdin is not None
        party.stdin.write(json.dumps(job))
        party.stdin.close()
    opened = [json.loads(party.stdout.read()) for party in parties if party.stdout]
    for party in parties:
        party.wait()
    assert opened[0] == opened[1] == opened[2]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, opened[0], cpu


if __name__ == "__main__":
    main((50_000, 200_000), 4096)
