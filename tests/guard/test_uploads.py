"""Uploads that are cut, resumed, doubled, too many, or met by a full disk."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from folkmoot.errors import TransientError
from pipelines.guard import uploads as module
from pipelines.guard.uploads import Progress, Uploads

DATA = os.urandom(3 * module._BATCH + 12345)
DIGEST = hashlib.sha256(DATA).hexdigest()


async def line(data: bytes, *, silent: bool = False, piece: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), piece):
        yield data[at : at + piece]
    if silent:
        await asyncio.Event().wait()


@pytest.fixture
def part(tmp_path: Path) -> tuple[Uploads, Path]:
    uploads = Uploads(tmp_path, len(DATA))
    return uploads, uploads.path("site-a", "key", DIGEST)


def test_whoever_comes_back_goes_on_where_the_dead_line_stopped(
    part: tuple[Uploads, Path],
) -> None:
    """The network was cut: the first request still waits for bytes that will never come."""
    uploads, file = part
    half = 2 * module._BATCH + 500

    async def run() -> list[Progress]:
        dead = asyncio.create_task(
            uploads.append(file, 0, len(DATA), line(DATA[:half], silent=True))
        )
        while not file.exists() or file.stat().st_size < module._BATCH:
            await asyncio.sleep(0.005)
        asked = await uploads.append(file, 0, len(DATA), line(DATA))
        rest = await uploads.append(file, asked.size, len(DATA), line(DATA[asked.size :]))
        return [await dead, asked, rest]

    dead, asked, rest = asyncio.run(asyncio.wait_for(run(), 20))
    assert dead == Progress(half, fault="cut-off")
    assert asked == Progress(half, fault="upload-offset")
    assert rest == Progress(len(DATA), DIGEST)
    assert file.read_bytes() == DATA


def test_a_silent_line_is_let_go(
    part: tuple[Uploads, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads, file = part
    monkeypatch.setattr(module, "IDLE", 0.05)
    ended = asyncio.run(uploads.append(file, 0, len(DATA), line(b"abc", silent=True)))
    assert ended == Progress(3, fault="cut-off")
    assert not uploads._lines


def test_an_upload_goes_on_after_the_coordinator_was_started_again(
    part: tuple[Uploads, Path],
) -> None:
    uploads, file = part
    assert asyncio.run(uploads.append(file, 0, len(DATA), line(DATA[:1000]))).size == 1000
    again = Uploads(file.parents[1], len(DATA))
    done = asyncio.run(again.append(file, 1000, len(DATA), line(DATA[1000:])))
    assert done == Progress(len(DATA), DIGEST)


def test_a_site_cannot_fill_the_disk_with_beginnings(part: tuple[Uploads, Path]) -> None:
    uploads, _ = part
    said = []
    for number in range(4):
        other = uploads.path("site-a", f"key-{number}", DIGEST)
        said.append(asyncio.run(uploads.append(other, 0, len(DATA), line(DATA[:-1]))).fault)
    assert said == [None, None, "unfinished", "unfinished"]
    elsewhere = uploads.path("site-b", "key", DIGEST)
    assert asyncio.run(uploads.append(elsewhere, 0, len(DATA), line(DATA))).digest == DIGEST


def test_a_site_has_so_many_lines_and_promises_count(tmp_path: Path) -> None:
    """What is announced counts at once: it would all come together else."""

    async def run(total: int, largest: int) -> list[str | None]:
        uploads = Uploads(tmp_path / str(total), largest)
        files = [uploads.path("site-a", f"key-{n}", DIGEST) for n in range(module._LINES + 1)]
        lines = [
            asyncio.create_task(uploads.append(file, 0, total, line(b"a", silent=True)))
            for file in files[:-1]
        ]
        await asyncio.sleep(0.2)
        faults = [t.result().fault for t in lines if t.done()]
        last = await uploads.append(files[-1], 0, total, line(b"a"))
        for silent in list(uploads._lines.values()):
            silent.cut()
        await asyncio.gather(*lines)
        return [*faults, last.fault]

    assert asyncio.run(run(10, 1000)) == ["unfinished"]  # one line too many
    assert asyncio.run(run(600, 1000)).count("unfinished") >= module._LINES - 2


def test_a_full_disk_is_told_and_frees_what_it_took(
    part: tuple[Uploads, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads, file = part
    write, written = os.write, []

    def full(target: int, data: bytes) -> int:
        if sum(written) > module._BATCH:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(target, data[:70_000]))  # a write may be a part of what was asked
        return written[-1]

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TransientError) as caught:
        asyncio.run(uploads.append(file, 0, len(DATA), line(DATA)))
    assert caught.value.code == "transient.disk-full"
    assert not file.exists()
    monkeypatch.setattr(os, "write", write)
    assert asyncio.run(uploads.append(file, 0, len(DATA), line(DATA))).digest == DIGEST
