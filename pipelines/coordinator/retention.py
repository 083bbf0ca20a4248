"""What the exchange store keeps of runs that are over, and for how long.

Of a finished run that is old enough, the sites' artefacts (updates, statistics, counts, key messages)
and the models between first and last go; the run's settings, records, result and final model stay, and
with them every answer to where a model came from.  Anchors of ledgers always stay.  Runs that are not
finished can still be resumed and are left alone, unless asked for.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from folkmoot.errors import ConfigError
from folkmoot.exchange import ExchangeStore
from folkmoot.plan import keys
from pipelines.coordinator import lock

__all__ = ["Cleaned", "clean"]


@dataclass(frozen=True)
class Cleaned:
    """What was (or would be) removed.

    Parameters
    ----------
    runs : tuple of str
        Runs of which something went.
    files, size : int
        How many artefacts, and their bytes.
    """

    runs: tuple[str, ...]
    files: int
    size: int


def clean(
    store: ExchangeStore,
    workspace: Path,
    federation: str,
    days: float,
    *,
    unfinished: bool = False,
    dry: bool = False,
    now: float | None = None,
) -> Cleaned:
    """Remove what is not needed any more of runs that are over.

    Parameters
    ----------
    store : ExchangeStore
        A folder; a bucket is cleaned by its own lifecycle rules.
    workspace, federation : Path, str
        The coordinator's; the run that is going on is never touched.
    days : float
        Age of a run's newest artefact from which on it is cleaned.
    unfinished : bool
        Whether runs that never ended go too, whole: they cannot be resumed then.
    dry : bool
        Count only.

    Raises
    ------
    ConfigError
        Where the store is no folder.
    """
    root = store.path(f"{federation}/runs")
    if root is None:
        raise ConfigError(
            "config.invalid",
            "The exchange store is no folder of this machine.",
            "Set lifecycle rules at the bucket, for keys below <federation>/runs/.",
        )
    before = (time.time() if now is None else now) - days * 86400
    runs, files, size = [], 0, 0
    for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else ():
        inside = [p for p in folder.rglob("*") if p.is_file()]
        newest = max((p.stat().st_mtime for p in inside), default=0.0)
        if newest > before or lock.holder(workspace, federation) == folder.name:
            continue
        done = (folder / keys.RESULT).exists()
        if not done and not unfinished:
            continue
        kept = _kept(folder) if done else set()
        going = [p for p in inside if not _stays(p.relative_to(folder).as_posix(), kept)]
        if not going:
            continue
        runs.append(folder.name)
        files += len(going)
        size += sum(p.stat().st_size for p in going)
        if not dry:
            for path in going:
                path.unlink()
            if not done:
                shutil.rmtree(folder, ignore_errors=True)
    return Cleaned(tuple(runs), files, size)


def _kept(folder: Path) -> set[str]:
    """Settings, result and final model of a finished run."""
    result = json.loads((folder / keys.RESULT).read_bytes())
    return {keys.RUN, keys.RESULT, keys.SCHEMA, str(result.get("model", ""))}


def _stays(name: str, kept: set[str]) -> bool:
    """What is kept, and every round's record; each with its signature."""
    name = name.removesuffix(".signature")
    return name in kept or (bool(kept) and name.endswith("/record.json"))
