"""Uploads of sites that are not whole yet: a file per artefact, appended to as bytes arrive.

What has arrived stays when a line is cut, and whoever comes back goes on from there.  Hashing and
writing happen in a thread while the next bytes are received; the file reaches the disk before the
artefact is published, so that no crash leaves a name without its bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect

from folkmoot.errors import TransientError

__all__ = ["IDLE", "Progress", "Uploads"]

#: Seconds without a byte after which a line counts as cut.
IDLE = 30.0
#: Bytes that are hashed and written in one visit to a thread.
_BATCH = 1 << 20
_KEPT = 7 * 86400.0
#: What a site's unfinished uploads may take together, in artefacts of the largest size.
_UNFINISHED = 2
#: Uploads of one site at the same time; each may hold two batches in memory.
_LINES = 8


@dataclass(frozen=True)
class Progress:
    """How far an upload has come.

    Parameters
    ----------
    size : int
        Bytes that are there.
    digest : str or None
        SHA-256 of the whole, where it is whole.
    fault : str or None
        Why it stopped before the end of the request.
    """

    size: int
    digest: str | None = None
    fault: str | None = None


class _Line:
    """A request that appends to a file at this moment."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.over = asyncio.Event()
        self.ousted = False
        self.limit = asyncio.timeout(IDLE)

    def cut(self) -> None:
        """End it, wherever it waits."""
        self.ousted = True
        with contextlib.suppress(RuntimeError, AssertionError):  # not begun, or at its end
            self.limit.reschedule(asyncio.get_running_loop().time())

    def heard(self) -> None:
        """Bytes came: the line is not cut."""
        if not self.ousted:
            self.limit.reschedule(asyncio.get_running_loop().time() + IDLE)


class _Writer:
    """Hashes and writes batches in a thread, in order and one at a time."""

    def __init__(self, file: int, hashed: Any) -> None:
        self._file, self._hashed = file, hashed
        self._batch: list[bytes] = []
        self._size = 0
        self._busy: asyncio.Future[None] | None = None

    async def put(self, chunk: bytes) -> None:
        """Take bytes; waits where the thread is two batches behind."""
        self._batch.append(chunk)
        self._size += len(chunk)
        if self._size >= _BATCH:
            await self._hand_over()

    async def end(self) -> None:
        """Return when all is written."""
        if self._batch:
            await self._hand_over()
        await self._settled()

    async def _hand_over(self) -> None:
        await self._settled()
        batch, self._batch, self._size = self._batch, [], 0
        loop = asyncio.get_running_loop()
        self._busy = loop.run_in_executor(None, _take, self._file, self._hashed, batch)

    async def _settled(self) -> None:
        if self._busy is not None:
            await asyncio.shield(self._busy)  # whoever waits may be ended; the thread is not


class Uploads:
    """Files of unfinished uploads, by site.

    Parameters
    ----------
    folder : Path
        On the store's own file system where that is a folder.
    largest : int
        Most bytes of one artefact; a site's unfinished ones may take twice as much.
    """

    def __init__(self, folder: Path, largest: int = 1 << 30) -> None:
        self._folder, self._largest = folder, largest
        self._lines: dict[Path, _Line] = {}
        self._hashing: dict[Path, tuple[int, Any]] = {}

    def path(self, site: str, key: str, digest: str) -> Path:
        """The file of an upload: the same artefact always finds the same one."""
        name = hashlib.sha256(f"{key}\n{digest}".encode()).hexdigest()
        return self._folder / site / name

    def drop(self, part: Path) -> None:
        """Forget an upload."""
        self._hashing.pop(part, None)
        part.unlink(missing_ok=True)

    async def append(
        self, part: Path, offset: int, total: int, stream: AsyncIterator[bytes]
    ) -> Progress:
        """Append what a request brings, at its place; O(bytes).

        A request that still waits for bytes of the same upload is ended: its line was cut, or its
        sender would not have come again.

        Raises
        ------
        TransientError
            ``transient.disk-full`` where no space is left; the upload is forgotten then.
        """
        while (before := self._lines.get(part)) is not None:
            before.cut()
            await before.over.wait()
        line = self._lines[part] = _Line(total)
        try:
            return await self._append(part, offset, total, stream, line)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.drop(part)
            raise _failed(error) from None
        finally:
            del self._lines[part]
            line.over.set()

    async def _append(
        self, part: Path, offset: int, total: int, stream: AsyncIterator[bytes], line: _Line
    ) -> Progress:
        besides = [x.total for p, x in self._lines.items() if p.parent == part.parent and p != part]
        if len(besides) >= _LINES:
            return Progress(offset, fault="unfinished")
        others = sum(besides) + await asyncio.to_thread(_prepare, part)
        have = part.stat().st_size if part.exists() else 0
        if have != offset:
            return Progress(have, fault="upload-offset")
        if others + total > _UNFINISHED * self._largest:
            return Progress(have, fault="unfinished")
        # Hashed as it comes: an upload in parts is not read again at its end.
        at, hashed = self._hashing.pop(part, (0, hashlib.sha256()))
        hashed = hashed if at == offset else (None if offset else hashlib.sha256())
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            have, fault = await _receive(file, hashed, stream, have, total, line)
            if have < total or fault == "size":
                if hashed is not None and len(self._hashing) < 1024:
                    self._hashing[part] = (have, hashed)
                return Progress(have, fault=fault)
            await asyncio.to_thread(os.fsync, file)
        finally:
            os.close(file)
        found = hashed.hexdigest() if hashed else await asyncio.to_thread(_hash, part)
        return Progress(have, found)


async def _receive(
    file: int, hashed: Any, stream: AsyncIterator[bytes], have: int, total: int, line: _Line
) -> tuple[int, str | None]:
    """Write what comes; returns how much is there, and why it ended early."""
    writer = _Writer(file, hashed)
    try:
        async with line.limit:
            async for chunk in stream:
                if line.ousted:
                    return have, "cut-off"
                if have + len(chunk) > total:
                    return have, "size"
                have += len(chunk)
                await writer.put(chunk)
                line.heard()
    except (TimeoutError, ClientDisconnect):
        return have, "cut-off"
    finally:
        await writer.end()
    return have, None


def _take(file: int, hashed: Any, chunks: list[bytes]) -> None:
    for chunk in chunks:
        if hashed is not None:
            hashed.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(file, rest) :]


def _prepare(part: Path) -> int:
    """Make the folder, sweep parts that nobody came back for; bytes that the other ones take."""
    part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    taken = 0
    for other in part.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found = other.stat()
            if other == part:
                continue
            if time.time() - found.st_mtime > _KEPT:
                other.unlink()
            else:
                taken += found.st_size
    return taken


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _failed(error: OSError) -> TransientError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TransientError(
            "transient.disk-full",
            "No space is left for uploads of sites; nothing was published.",
            "Free space at the coordinator; sites go on by themselves.",
        )
    return TransientError(
        "transient.exchange",
        f"An upload of a site could not be written ({type(error).__name__}).",
        "Check disk and rights of the exchange store's folder.",
    )
