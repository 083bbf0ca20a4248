"""What the exchange store keeps of runs that are over, and for how long; folder or bucket alike.

Of a finished run that is old enough, the sites' artefacts (updates, statistics, counts, key messages)
and the models between first and last go, and what it said in live sessions; the run's settings,
records, result and final model stay, and with them every answer to where a model came from.  Anchors
of ledgers always stay.  Runs that are not finished can still be resumed and are left alone, unless
asked for; so is a run in which a site showed a ledger entry that was not countersigned yet.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folkmoot.errors import ProtocolError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.plan import keys
from pipelines.coordinator import lock

__all__ = ["Cleaned", "clean"]

#: What stays of a finished run besides the model that its result names.
_STAYS = re.compile(
    rf"(?:{re.escape(keys.RUN)}|{re.escape(keys.RESULT)}|{re.escape(keys.SCHEMA)}"
    r"|round-\d+/record\.json)(?:\.signature)?"
)

#: Folders of a federation that hold something of every run.
_WHERE = ("runs", "sessions")


@dataclass(frozen=True)
class Cleaned:
    """What was (or would be) removed.

    Parameters
    ----------
    runs : tuple of str
        Runs of which something went.
    files, size : int
        How many artefacts, and their bytes.
    waiting : tuple of str
        Runs that are old enough and were left whole: a ledger entry of a site waits for its anchor.
    """

    runs: tuple[str, ...]
    files: int
    size: int
    waiting: tuple[str, ...] = ()


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
    """Remove what is not needed any more of runs that are over; O(artefacts) of the federation.

    Parameters
    ----------
    store : ExchangeStore
        A folder, a bucket or any other fsspec file system.
    workspace, federation : Path, str
        The coordinator's; the run that is going on is never touched.
    days : float
        Age of a run's newest artefact from which on it is cleaned, by the store's own clock.
    unfinished : bool
        Whether runs that never ended go too, whole: they cannot be resumed then.
    dry : bool
        Count only.

    Raises
    ------
    ConfigError
        For a site's view of a store.
    ProtocolError
        ``protocol.format`` for a run whose result is damaged: nothing of it is removed.
    TransientError
        ``transient.exchange`` where the store does not list or remove; what is gone is not needed.
    """
    before = (time.time() if now is None else now) - days * 86400
    disk = _Disk(store)
    talks = disk.runs(f"{federation}/sessions")
    anchors = disk.runs(f"{federation}/anchors")
    runs, waiting, number, size = [], [], 0, 0
    for run, inside in disk.runs(f"{federation}/runs").items():
        said = talks.get(run, {})
        newest = max(found.changed for found in (*inside.values(), *said.values()))
        if newest > before or lock.holder(workspace, federation) == run:
            continue
        done = keys.RESULT in inside
        if not done and not unfinished:
            continue
        kept = _model(store, f"{federation}/runs/{run}/{keys.RESULT}") if done else None
        going = [f for name, f in inside.items() if not done or not _stays(name, kept)]
        going += said.values()
        if not going:
            continue
        if done and _unanchored(anchors.get(run, {})):
            waiting.append(run)
            continue
        runs.append(run)
        number += len(going)
        size += sum(found.size for found in going)
        if not dry:
            # What says that there was a run goes last: cut off, the next cleaning goes on.
            disk.remove(sorted((f.path for f in going), key=lambda path: path.endswith(keys.RUN)))
            disk.hold_gone({f.path for f in going}, *(f"{federation}/{w}/{run}" for w in _WHERE))
            disk.prune(
                f"{federation}/sessions/{run}", *([] if done else [f"{federation}/runs/{run}"])
            )
    return Cleaned(tuple(runs), number, size, tuple(waiting))


def _model(store: ExchangeStore, key: str) -> str:
    """Key of the final model in the run."""
    try:
        return str(json.loads(store.get(key)).get("model", ""))
    except (ValueError, AttributeError):
        raise ProtocolError(
            "protocol.format", f"{key} is no run's result.", "Restore it from a backup."
        ) from None


def _stays(name: str, model: str | None) -> bool:
    return _STAYS.fullmatch(name) is not None or name.removesuffix(".signature") == model


def _unanchored(names: dict[str, _Found]) -> bool:
    """Whether a site showed its ledger in a round that no anchor was published for since."""
    shown = [int(m[1]) for n in names if (m := re.match(r"heads/round-(\d+)/", n))]
    signed = [int(m[1]) for n in names if (m := re.fullmatch(r"round-(\d+)", n))]
    return max(shown, default=-1) > max(signed, default=-1)


@dataclass(frozen=True)
class _Found:
    path: str
    size: int
    changed: float


class _Disk:
    """The store's files, as fsspec lists and removes them."""

    def __init__(self, store: ExchangeStore) -> None:
        self._fs, self._root = store.files()

    def runs(self, folder: str) -> dict[str, dict[str, _Found]]:
        """By run, every file in it by its name there; runs are sorted."""
        found: dict[str, dict[str, _Found]] = {}
        inside = f"{self._root}/{folder}/"
        for path, size, changed in self._listed(inside.rstrip("/")):
            run, _, name = path.removeprefix(inside).partition("/")
            if name and path.startswith(inside):
                found.setdefault(run, {})[name] = _Found(path, size, changed)
        return dict(sorted(found.items()))

    def _listed(self, path: str) -> Iterator[tuple[str, int, float]]:
        try:
            listed = self._fs.find(path, detail=True)
            for name, info in listed.items():
                yield str(name), int(info.get("size") or 0), self._changed(str(name), info)
        except FileNotFoundError:
            return
        except Exception as error:  # each store has its own
            raise _failed("list", type(error).__name__) from None

    def _changed(self, path: str, info: dict[str, Any]) -> float:
        """When a file was written; stores call it by many names."""
        names = ("mtime", "LastModified", "last_modified", "updated", "created")
        when = next((info[n] for n in names if info.get(n) is not None), None)
        if when is None:
            when = self._fs.modified(path)
        if isinstance(when, str):
            when = datetime.datetime.fromisoformat(when)
        if isinstance(when, datetime.datetime):
            return when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp()
        return float(when)

    def remove(self, paths: list[str]) -> None:
        """Remove files, in this order by thousands: as many go in one request at most."""
        try:
            for start in range(0, len(paths), 1000):
                self._fs.rm(paths[start : start + 1000])
        except Exception as error:  # each store has its own
            raise _failed("remove", type(error).__name__) from None

    def hold_gone(self, paths: set[str], *folders: str) -> None:
        """Look whether they went: what S3 refuses of a list, s3fs keeps to itself."""
        if any(path in paths for f in folders for path, *_ in self._listed(f"{self._root}/{f}")):
            raise _failed("remove", "some are still there")

    def prune(self, *folders: str) -> None:
        """Empty folders, where there are such things."""
        if self._fs.protocol in {"file", ("file", "local")}:
            for folder in folders:
                for inner, _, _ in os.walk(f"{self._root}/{folder}", topdown=False):
                    with contextlib.suppress(OSError):  # one that is not empty stays
                        os.rmdir(inner)


def _failed(what: str, why: str) -> TransientError:
    return TransientError(
        "transient.exchange",
        f"The exchange store did not {what} artefacts ({why}).",
        "Check its URL, and that this account may list and delete; then clean again.",
    )
