"""What a site's tasks keep of the coordinator's store: what never changes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.exchange_memory import Memory

RUN = "demo/runs/one"
KEPT = (
    f"{RUN}/run.json",
    f"{RUN}/run.json.signature",
    f"{RUN}/round-000/schema.json",
    f"{RUN}/secure/members.json",
    "demo/anchors/one/round-001",
)


@pytest.mark.parametrize("key", KEPT)
def test_what_tasks_share_is_read_once(tmp_path: Path, key: str) -> None:
    Memory(tmp_path).keep(key, b"bytes")
    assert Memory(tmp_path).find(key) == b"bytes"


@pytest.mark.parametrize(
    "key",
    [
        f"{RUN}/round-001/model",
        f"{RUN}/round-001/update-clinic-a",
        f"{RUN}/final/result.json",
        "demo/anchors/one/round-002",
        "demo/anchors/one/heads/round-001/train/clinic-a",
        "demo/sessions/one/round-001-0123456789abcdef/000/over.json",
    ],
)
def test_the_rest_is_asked_for(tmp_path: Path, key: str) -> None:
    memory = Memory(tmp_path)
    memory.keep(key, b"bytes")
    assert memory.find(key) is None
    assert list(tmp_path.iterdir()) == []


def test_keys_do_not_meet(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    for key in KEPT:
        memory.keep(key, key.encode())
    memory.keep("other/runs/one/run.json", b"of another federation")
    assert [memory.find(key) for key in KEPT] == [key.encode() for key in KEPT]


def test_damaged_or_torn_bytes_are_read_anew(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.keep(KEPT[0], b"bytes")
    (file,) = tmp_path.glob("*/*")
    for damaged in (file.read_bytes()[:-1], file.read_bytes() + b"x", b""):
        file.write_bytes(damaged)
        assert memory.find(KEPT[0]) is None


def test_only_the_last_runs_are_kept_and_nothing_large(tmp_path: Path) -> None:
    import os

    memory = Memory(tmp_path)
    for number in range(6):
        memory.keep(f"demo/runs/{number}/run.json", b"bytes")
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_ctime_ns)
        os.utime(newest, (number, number))
    found = [memory.find(f"demo/runs/{number}/run.json") is not None for number in range(6)]
    assert found == [False, False, True, True, True, True]
    memory.keep(KEPT[0], bytes(2 << 20))
    assert memory.find(KEPT[0]) is None


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    memory = Memory(file)
    memory.keep(KEPT[0], b"bytes")
    assert memory.find(KEPT[0]) is None
