"""How a run over real sites ended: what came out of it, or why nothing did."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.network import SITES
from folkmoot.errors import FolkmootError

__all__ = ["DAG", "Outcome", "digests", "keep_logs", "reason", "verified"]

DAG = "federated_linear"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    state : str
        Of the DAG run.
    result : tuple of str, optional
        Digests, of a run that ended well.
    seconds : float
        From its start to its end.
    name : str
        Of the federation's run.
    why : str
        The project's error, of a run that failed.
    """

    state: str
    result: tuple[str, ...] | None
    seconds: float
    name: str = ""
    why: str = ""

    def same(self, other: Outcome) -> bool:
        """Whether both ended well and with the same digests."""
        return self.state == "success" and self.result == other.result

    @property
    def quorum(self) -> bool:
        """Whether it failed, and says that its quorum was not reached."""
        return self.state == "failed" and self.why.startswith("round.quorum")

    def told(self, calm: Outcome) -> str:
        """In a few words, beside the undisturbed run."""
        if self.same(calm):
            return "same digests"
        return self.why or ("OTHER DIGESTS" if self.state == "success" else self.state)


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


def reason(bed: Testbed, run: str) -> str:
    """The first of the project's errors that is not passing, in the logs of the coordinator's tasks."""
    from pipelines.hosts.airflow_api import error_in

    folder = bed.workspace / "airflow" / "logs" / f"dag_id={DAG}" / f"run_id={run}"
    logs = sorted(folder.rglob("*.log"), key=lambda path: path.stat().st_mtime)
    found: list[FolkmootError] = []
    for log in logs:
        error = error_in(log.read_text(errors="replace"))
        found += [error] if error is not None else []
    lasting = [error for error in found if not error.retryable] or found
    return f"{lasting[0].code}: {lasting[0].message}" if lasting else ""


def verified(bed: Testbed) -> bool:
    """Whether the ledgers of all sites are whole."""
    try:
        for site in SITES:
            bed.command("ledger", "verify", site, site=site)
    except Exception as error:
        print(error)
        return False
    return True


def keep_logs(bed: Testbed, name: str) -> None:
    """What the sites' tasks said, where it outlives the sites' small disks."""
    for site in SITES:
        logs = bed.home(site) / "private" / "airflow" / "logs"
        if logs.exists():
            shutil.copytree(logs, bed.folder / "kept" / name / site, dirs_exist_ok=True)
