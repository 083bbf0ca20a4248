"""What every task of a run reads again from a distant exchange store, kept for the next ones.

An artefact never changes once it is published, and each task is a process of its own: run, agreed
schema, keys of the sums and first anchors are asked for once.  Signatures are checked by each task as
before.  The folder lasts as long as the worker that was started with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from pathlib import Path

__all__ = ["VARIABLE", "Memory"]

#: Names the folder.
VARIABLE = "FOLKMOOT_EXCHANGE_MEMORY"
_SIGNED = r"(?:run\.json|round-000/schema\.json)(?:\.signature)?"
_KEPT = re.compile(
    rf"[^/]+/(?:runs/(?P<run>[^/]+)/(?:{_SIGNED}|secure/[^/]+)|anchors/(?P<of>[^/]+)/round-00[01])"
)
_LARGEST = 1 << 20
_RUNS = 4


class Memory:
    """A folder of artefacts, of the last runs alone.

    Parameters
    ----------
    folder : Path
        Made when something is kept; the site's own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def named() -> Memory | None:
        """The one that the environment names."""
        folder = os.environ.get(VARIABLE)
        return Memory(Path(folder)) if folder else None

    def find(self, key: str) -> bytes | None:
        """The artefact, where it was kept whole."""
        path = self._path(key)
        if path is None:
            return None
        try:
            kept = path.read_bytes()
        except OSError:
            return None
        data = kept[32:]
        return data if hashlib.sha256(data).digest() == kept[:32] else None

    def keep(self, key: str, data: bytes) -> None:
        """Keep an artefact, where later tasks ask for it; a disk that is full changes nothing."""
        path = self._path(key)
        if path is None or len(data) > _LARGEST:
            return
        part = path.with_suffix(f".{os.getpid()}")
        try:
            if not path.parent.exists():
                self._make_room()
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.write_bytes(hashlib.sha256(data).digest() + data)
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    def _path(self, key: str) -> Path | None:
        found = _KEPT.fullmatch(key)
        if found is None:
            return None
        run = found["run"] or found["of"]
        return self._folder / _name(f"{key.split('/', 1)[0]}/{run}") / _name(key)

    def _make_room(self) -> None:
        runs = sorted(self._folder.glob("*"), key=lambda path: path.stat().st_mtime)
        for path in runs[: max(0, len(runs) - _RUNS + 1)]:
            shutil.rmtree(path, ignore_errors=True)


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
