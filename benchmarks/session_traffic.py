"""Traffic of an ``xgboost_federated`` session without training, and training without traffic.

Four workers and the tracker, as in a session, sum what 50 trees of depth 6 over 28 features of 256
bins sum: one histogram of the root, then one for every second node of each level, 16 bytes a bin.
Against it four quarters of the rows trained on by themselves.  Processor time, as a machine in use
leaves that nearly alone; called by ``benchmarks.federated_trees``.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from folkmoot.live.certificates import issue, write
from folkmoot.live.process import Child, job, say
from folkmoot.models.library import import_xgboost

__all__ = ["alone", "traffic"]

SITES, BINS, NODES = 4, 28 * 256, (1, 1, 2, 4, 8, 16)
_SERVER, _SECONDS = "pipelines.coordinator.live.server", 600.0


def alone(x: Any, y: Any, settings: dict[str, Any], steps: int) -> float:
    """Processor seconds of training on each quarter of the rows by itself, on one thread."""
    import xgboost

    before = _processors()
    for rows in np.array_split(np.arange(len(y)), SITES):
        matrix = xgboost.QuantileDMatrix(x[rows], y[rows], nthread=1)
        xgboost.train(settings | {"nthread": 1}, matrix, steps)
    return _processors() - before


def traffic(steps: int) -> tuple[float, float]:
    """Processor seconds of all workers and of the tracker for the sums of so many trees."""
    with tempfile.TemporaryDirectory() as root:
        own, key = issue("coordinator", "127.0.0.1", _SECONDS)
        files, allowed = [], []
        for rank in range(SITES):
            certificate, private = issue(f"site-{rank}", "127.0.0.1", _SECONDS)
            allowed.append(certificate)
            texts = {"tracker": own, "own": certificate, "key": private}
            files.append(write(_folder(root, str(rank)), texts))
        names = {"own": own, "key": key, "sites": "".join(allowed)}
        certificates = write(_folder(root, "tracker"), names)
        with Child(_SERVER, Path(root)) as tracker:
            values = {"world": SITES, "port": 0, "seconds": _SECONDS, "certificates": certificates}
            tracker.give(values)
            port = _heard(tracker, "port")
            workers = [Child("benchmarks.session_traffic", Path(root)) for _ in files]
            try:
                for rank, (worker, own_files) in enumerate(zip(workers, files, strict=True)):
                    worker.give(
                        {"rank": rank, "port": port, "steps": steps, "certificates": own_files}
                    )
                for worker in workers:
                    _heard(worker, "begun")
                before = sum(psutil.Process(tracker.pid).cpu_times()[:2])
                work = sum(_heard(worker, "seconds") for worker in workers)
                after = sum(psutil.Process(tracker.pid).cpu_times()[:2])
            finally:
                for worker in workers:
                    worker.stop()
    return work, after - before


def worker() -> int:
    """One of the four, in a process of its own."""
    collective = import_xgboost(alone=True).collective
    asked = job()
    certificates = asked["certificates"]
    with collective.CommunicatorContext(
        dmlc_communicator="federated",
        federated_server_address=f"127.0.0.1:{asked['port']}",
        federated_world_size=SITES,
        federated_rank=asked["rank"],
        federated_server_cert_path=certificates["tracker"],
        federated_client_key_path=certificates["key"],
        federated_client_cert_path=certificates["own"],
    ):
        sums = [np.ones(2 * BINS * nodes) for nodes in NODES]
        collective.allreduce(sums[0], collective.Op.SUM)
        say(begun=1)
        before = _processors()
        for _ in range(asked["steps"]):
            for values in sums:
                collective.allreduce(values, collective.Op.SUM)
        say(seconds=_processors() - before)
    return 0


def _heard(child: Child, name: str) -> Any:
    limit = time.monotonic() + _SECONDS
    while time.monotonic() < limit:
        said = child.said(0.2)
        if said is not None and name in said:
            return said[name]
        if said is None and child.ended:
            break
    raise RuntimeError(f"A process did not say {name}: {child.last_words}")


def _folder(root: str, name: str) -> Path:
    folder = Path(root) / name
    folder.mkdir()
    return folder


def _processors() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(worker())
