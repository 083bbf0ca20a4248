"""What privacy adds to a round of a million parameters, against writing the update to disk.

The real release door of a simulated site lets one update out after another: clipped, noised,
charged to the ledger, persisted (``site_tasks.release``).  Those four are timed inside it, and next
to each release the same bytes are written to the same disk with fsync.  Disks vary from second to
second, so the figure is the median of the ratios of neighbours in time.  Clipping and noise touch no
disk: on a busy machine they are told by the processor's clock, as the waiting belongs to others.

Beside it stands what a whole release takes with privacy and without: encoding, signature and the
exchange store are the same in both.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import site_tasks.release as door
from benchmarks.report import row
from folkmoot.params import parse_params
from folkmoot.plan import RunContext, Step
from folkmoot.privacy.ledger import Ledger
from folkmoot.privacy.release import charge
from folkmoot.updates import LinearUpdate
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import open_context, store_of
from site_tasks.home import SiteHome

PARAMETERS, TIMES, SITE = 1_000_000, 25, "site-a"
COMPUTED = "clip and noise"
GAUSSIAN = {"mechanism": "gaussian", "noise_multiplier": 4.0, "epsilon": 3.0}


def main(times: int = TIMES) -> None:
    with tempfile.TemporaryDirectory() as name:
        private = Door(Path(name, "private"), GAUSSIAN)
        plain = Door(Path(name, "plain"), {"mechanism": "none"})
        ratios, parts, writes, whole, without = [], [], [], [], []
        for number in range(times + 2):
            seconds, spent, data = private.let_out(number)
            written = write(Path(name, "update"), data)
            plainly, _, _ = plain.let_out(number)
            if number < 2:  # tables, caches and connections
                continue
            parts.append(spent)
            writes.append(written)
            ratios.append(sum(spent.values()) / written)
            whole.append(seconds)
            without.append(plainly)
    each = ", ".join(
        f"{part} {1000 * statistics.median(spent[part] for spent in parts):.1f}"
        for part in parts[0]
    )
    write_ms = 1000 * statistics.median(writes)
    sys.stdout.write(f"medians in ms: {each}; writing with fsync {write_ms:.1f}\n")
    ratio = statistics.median(ratios)
    row(
        f"clip, noise, ledger, persist of {PARAMETERS:,} parameters, against writing them with fsync",
        f"{ratio:.2f} × (best {min(ratios):.2f} ×; writing {write_ms:.1f} ms)",
        "≤ 2 ×",
        met=ratio <= 2,
    )
    more = statistics.median(a - b for a, b in zip(whole, without, strict=True))
    row(
        "the same: a whole release with privacy beyond one without",
        f"{1000 * more:.1f} ms ({more / statistics.median(writes):.2f} × the write)",
        "≤ 2 ×",
        met=more <= 2 * statistics.median(writes),
    )


class Door:
    """A simulated site that has prepared its rows, and its release door."""

    def __init__(self, workspace: Path, privacy: dict[str, Any]) -> None:
        params = parse_params(
            {
                "federation": {"name": "bench", "sites": [SITE, "site-b"]},
                "data": {"recipe": "breast_cancer", "scaling": "bounds"},
                "model": {"linear": {"strategy": "fedavg", "rounds": 1}},
                "aggregation": {"weighting": "uniform", "evaluate_every": 0},
                "privacy": privacy,
                "tracking": {"enabled": False},
            }
        )
        result = run(params, workspace=workspace)
        store = store_of(params, workspace)
        self.context: RunContext = open_context(result["run"], "bench", store, workspace)
        self.home = SiteHome.find(SITE, workspace)
        self.costs = charge(params.privacy) if params.privacy.private else {}
        values = np.random.default_rng(0).standard_normal((1, PARAMETERS))
        self.update = LinearUpdate({"coefficients": values}, 1.0)

    def let_out(self, number: int) -> tuple[float, dict[str, float], bytes]:
        """Seconds of a release, those of its parts that privacy needs, and the bytes."""
        spent: dict[str, float] = {}
        step = Step(f"bench/{number}", "site.train", SITE, round=1)
        key = f"bench/update-{number}"
        with ExitStack() as stack:
            for where, name, part in (
                (door, "privatise", COMPUTED),
                (Ledger, "reserve", "ledger"),
                (Ledger, "commit", "ledger"),
                (door, "persist", "persist"),
            ):
                stack.enter_context(timed(where, name, part, spent))
            began = time.perf_counter()
            door.release(
                step,
                self.context,
                self.home,
                key=key,
                inputs=[str(number)],
                make=lambda: {"update": self.update},
                fingerprint="0" * 64,
                costs=self.costs,
            )
            seconds = time.perf_counter() - began
        data = self.context.store.find(self.context.key(key))
        assert data is not None
        return seconds, spent, data


def timed(where: Any, name: str, part: str, spent: dict[str, float]) -> Any:
    """A patch under which a function's seconds are added up."""
    real: Callable[..., Any] = getattr(where, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        began, worked = time.perf_counter(), time.process_time()
        try:
            return real(*args, **kwargs)
        finally:
            seconds = time.perf_counter() - began
            if part == COMPUTED:
                seconds = min(seconds, time.process_time() - worked)
            spent[part] = spent.get(part, 0.0) + seconds

    return mock.patch.object(where, name, call)


def write(path: Path, data: bytes) -> float:
    """Seconds of writing bytes as a new file, durably."""
    began = time.perf_counter()
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


if __name__ == "__main__":
    main(*(int(n) for n in sys.argv[1:]))
