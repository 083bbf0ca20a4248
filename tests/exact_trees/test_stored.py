"""Files of stored releases: which are written over, and who reads them meanwhile."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from folkmoot.params import Params
from folkmoot.plan import RunContext
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import store_of
from pipelines.hosts.walk import contract_for, roster_for
from site_tasks import backup as backups
from site_tasks import persist as persisting
from site_tasks.backup import backup, restore
from site_tasks.finished_sums import free_file, note
from site_tasks.home import SiteHome
from site_tasks.persist import persist, read_stored
from site_tasks.release import check_releases, open_ledger

from .conftest import stored

Workspace = Callable[..., Path]
Mixed = Callable[..., Params]


def test_a_file_is_only_taken_from_what_can_be_made_again(
    mixed: Mixed, workspace_of: Workspace
) -> None:
    """The list names runs by federation; what was never listed is never told, whatever its age."""
    params = mixed()
    workspace = workspace_of(params)
    home, context = SiteHome.find("a", workspace), opened_for(params, workspace, "one")
    home.releases.mkdir(exist_ok=True)
    made: dict[str, Path] = {}
    for name, size in {
        "masked": 3000,
        "r1": 100,
        "r2": 2000,
        "r3": 3000,
        "r4": 50,
        "r7": 9,
    }.items():
        made[name] = home.releases / (name.encode().hex() * 8)
        made[name].write_bytes(b"x" * size)
        if name != "masked":
            note(context, home, int(name[1]), made[name].name)
    assert free_file(context, home, 0, 3000) is None
    assert free_file(opened_for(params, workspace, "two"), home, 6, 3000) is None
    other = params.model_copy(
        update={"federation": params.federation.model_copy(update={"name": "other"})}
    )
    assert free_file(opened_for(other, workspace, "one"), home, 6, 3000) is None
    second = home.root / "second"
    second.hardlink_to(made["r4"])
    told = [free_file(context, home, 6, size) for size in (2900, 1, 1, 1)]
    assert told == [str(made["r3"]), str(made["r1"]), str(made["r2"]), None]
    assert all(path.exists() for path in made.values()), "depth 3: a tree's worth is kept"
    anew = opened_for(params, workspace, "one")
    for name, number in (("r5", 5), ("r6", 6)):
        made[name] = home.releases / (name.encode().hex() * 8)
        made[name].write_bytes(b"x")
        note(context, home, number, made[name].name)
    assert free_file(anew, home, 6, 1) in {str(made["r5"]), str(made["r6"])}
    gone = {name for name, path in made.items() if not path.exists()}
    assert gone == {"r1", "r2"}, "older than a tree; r4 has a second name, r7 is needed"


def opened_for(params: Params, workspace: Path, run: str) -> RunContext:
    """A run that nobody opened: its names are all that counts."""
    return RunContext(
        run,
        params,
        contract_for(params),
        roster_for(workspace),
        store_of(params, workspace),
        workspace,
    )


@pytest.mark.parametrize("size", [10, 5000, 400_000])
def test_a_file_is_written_over_only_where_nobody_else_has_it(tmp_path: Path, size: int) -> None:
    old, new, second = tmp_path / "old", tmp_path / "new", tmp_path / "second"
    data = bytes(range(251)) * (size // 251 + 1)
    old.write_bytes(b"x" * 5000)
    inode = old.stat().st_ino
    persist(str(new), data, durable=False, old=str(old))
    assert (new.read_bytes(), old.exists(), new.stat().st_ino) == (data, False, inode)
    second.hardlink_to(new)
    persist(str(old), b"other", durable=False, old=str(new))
    assert (old.read_bytes(), second.read_bytes()) == (b"other", data)
    persist(str(new), data, durable=True, old=str(tmp_path / "gone"))
    assert new.read_bytes() == data
    # What lies where a killed process began is not written to: it may have a second name.
    left = tmp_path / ".third.part"
    left.hardlink_to(second)
    persist(str(tmp_path / "third"), b"third", durable=False)
    assert (second.read_bytes(), (tmp_path / "third").read_bytes()) == (data, b"third")
    (tmp_path / "third").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old", "second"]


def test_who_reads_a_release_reads_it_whole(tmp_path: Path) -> None:
    """Files are written over beside readers: they see all of one release, or that it is gone."""
    size, names = 300_000, ["a", "b", "c"]
    for name in names:
        persist(str(tmp_path / name), name.encode() * size, durable=False)
    stop, seen = threading.Event(), set[str]()

    def read() -> None:
        while not stop.is_set():
            for name in (*names, "x", "y"):
                data = read_stored(tmp_path / name)
                seen.add(
                    "gone"
                    if data is None
                    else "whole"
                    if data.count(data[:1]) == len(data)
                    else "torn"
                )

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(400):
        old, new = ("a", "x") if number % 2 == 0 else ("x", "a")
        data = bytes([number % 251 + 1]) * size
        persist(str(tmp_path / new), data, durable=False, old=str(tmp_path / old))
    stop.set()
    for reader in readers:
        reader.join()
    assert seen == {"gone", "whole"}
    held = os.open(tmp_path / "a", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)
    inode = os.fstat(held).st_ino
    persist(str(tmp_path / "y"), b"new", durable=False, old=str(tmp_path / "a"))
    assert (tmp_path / "y").stat().st_ino != inode
    assert len(os.read(held, size + 1)) == size
    os.close(held)


def test_a_file_that_is_being_read_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    persist(str(old), b"old" * 9, durable=False)
    read = persisting.read_open

    def meanwhile(file: int) -> bytes:
        persist(str(new), b"new" * 9, durable=False, old=str(old))
        return read(file)

    monkeypatch.setattr(persisting, "read_open", meanwhile)
    assert read_stored(old) == b"old" * 9
    assert (new.read_bytes(), old.exists()) == (b"new" * 9, False)


def test_a_backup_leaves_out_a_release_whose_file_was_taken(
    mixed: Mixed, workspace_of: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = mixed("model.trees.rounds=1")
    workspace = workspace_of(params)
    run(params, run="one", workspace=workspace)
    whole = stored(workspace, "a")
    taken = min(whole)

    def read(path: Path) -> bytes | None:
        return None if path.name == taken else read_stored(path)

    monkeypatch.setattr(backups, "read_stored", read)
    backup(SiteHome.find("a", workspace), workspace / "backup.tar.gz")
    found = restore(workspace / "backup.tar.gz", workspace / "restored")
    kept = {p.name: p.read_bytes() for p in found.releases.iterdir() if p.name in whole}
    assert kept.keys() == whole.keys() - {taken}
    for name, data in kept.items():
        assert data == (SiteHome.find("a", workspace).releases / name).read_bytes()


def test_backups_and_checks_beside_a_run(mixed: Mixed, workspace_of: Workspace) -> None:
    """While files change hands, whatever was backed up holds and no check finds fault."""
    params = mixed(
        "model.trees.rounds=12", "model.trees.max_bin=1024", "aggregation.evaluate_every=0"
    )
    workspace = workspace_of(params)
    home, faults = SiteHome.find("a", workspace), list[BaseException]()
    stop, backups = threading.Event(), list[Path]()

    def look() -> None:
        while not stop.is_set():
            try:
                target = workspace / f"backup-{len(backups)}.tar.gz"
                backup(home, target)
                backups.append(target)
                if home.ledger_path.exists():
                    ledger = open_ledger(home)
                    check_releases(home, ledger)
                    ledger.close()
            except BaseException as error:
                faults.append(error)
                raise

    looking = threading.Thread(target=look)
    looking.start()
    run(params, run="one", workspace=workspace)
    stop.set()
    looking.join()
    assert faults == []
    assert len(backups) > 3
    for number, path in enumerate(backups):
        found = restore(path, workspace / f"restored-{number}")
        if found.ledger_path.exists():
            ledger = open_ledger(found)
            check_releases(found, ledger)
            ledger.close()
