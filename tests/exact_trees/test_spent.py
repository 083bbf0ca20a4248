"""Sums of finished trees leave the exchange store, and a site's files take those of the next tree."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import ConfigError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import Params
from folkmoot.plan import RunContext, keys
from folkmoot.wire import digest
from pipelines.coordinator.open_round import open_run
from pipelines.coordinator.spent import clear
from pipelines.hosts.embedded import Progress, run
from pipelines.hosts.execute import execute, store_of
from pipelines.hosts.walk import contract_for, record, roster_for
from pipelines.plans import plan_of
from site_tasks import backup as backups
from site_tasks import persist as persisting
from site_tasks.backup import backup, restore
from site_tasks.home import SiteHome
from site_tasks.persist import persist, read_stored
from site_tasks.release import check_releases, open_ledger
from site_tasks.spent import note, spent_file

from .conftest import SITES, Away, model_of, opened, with_two

Workspace = Callable[..., Path]
Mixed = Callable[..., Params]
THREE = "model.trees.rounds=3"  # rounds 1 and 2 count, 3 to 5, 6 to 8 and 9 to 11 grow a tree


def updates(context: RunContext, rounds: int) -> dict[str, str]:
    """Digests of the sums that the store has, by key."""
    found = {}
    for key in (keys.update(r, s) for r in range(1, rounds + 1) for s in SITES):
        data = context.store.find(context.key(key))
        if data is not None:
            found[key] = digest(data)
    return found


def stored(workspace: Path, site: str) -> dict[str, int]:
    """Names and inodes of a site's stored releases."""
    folder = SiteHome.find(site, workspace).releases
    return {p.name: p.stat().st_ino for p in folder.iterdir() if not p.name.startswith(".")}


def sound(workspace: Path) -> None:
    """Ledgers hold, and with them every release that is still stored."""
    for site in SITES:
        home = SiteHome.find(site, workspace)
        ledger = open_ledger(home)
        assert ledger.verify() > 8
        assert check_releases(home, ledger) > 0
        ledger.close()


@pytest.mark.parametrize("protection", ["none", "masks"])
def test_a_tree_that_stands_needs_no_sums(
    mixed: Mixed, workspace_of: Workspace, protection: str
) -> None:
    going = mixed(THREE, f"aggregation.protection={protection}")
    kept = mixed(THREE, f"aggregation.protection={protection}", "model.trees.keep_sums=true")
    one, other = workspace_of(going, "going"), workspace_of(kept, "kept")
    seen: list[int] = []
    inodes: set[int] = set()

    def after(number: int, rounds: int, record: dict[str, Any]) -> None:
        seen.append(len(updates(opened(going, one, "run"), rounds)))
        if number > 2:
            inodes.update(stored(one, "a").values())

    first = run(going, run="run", workspace=one, progress=Progress(round=after))
    second = run(kept, run="run", workspace=other)
    # Told before they go: those of the tree so far, and never more.
    assert seen == [3, 3, *(3 * [3, 6, 9])]
    a, b = opened(going, one, "run"), opened(kept, other, "run")
    assert updates(a, 11) == {}
    found = updates(b, 11)
    assert len(found) == 33
    for round in range(1, 12):  # what the store keeps was never written over
        said = (record(b, round) or {})["updates"]
        assert said == {site: found[keys.update(round, site)] for site in SITES}
    assert model_of(a, first["model"]).arrays["trees"].tobytes() == (
        model_of(b, second["model"]).arrays["trees"].tobytes()
    )
    sound(one)
    sound(other)
    whole = len(stored(other, "a"))
    if protection == "none":
        assert len(stored(one, "a")) == 2 + 3 < whole, "statistics, evaluation, one tree"
        assert len(inodes) <= 9, "the third tree's files are the first one's or the second's"
    else:
        assert len(stored(one, "a")) == whole > 11, "what is masked cannot be made again"


def test_what_a_site_repeats_of_a_finished_tree_is_what_it_was(
    mixed: Mixed, workspace_of: Workspace
) -> None:
    """Airflow's users clear a task: it runs again in a process that remembers nothing."""
    params = mixed()
    workspace = workspace_of(params)
    run(params, run="one", workspace=workspace)
    context = opened(params, workspace, "one")
    plan = plan_of(params, context.contract)
    for round in (1, 4, 8):
        said = (record(context, round) or {})["updates"]
        (ref,) = execute(plan.step(f"round-{round:03d}/train/b"), opened(params, workspace, "one"))
        assert ref.digest == said["b"]
    told: list[str] = []
    assert clear(context, 8, record(context, 8) or {}, told.append) == 1
    assert clear(context, 7, record(context, 7) or {}, told.append) == 0, "within a tree"
    assert told == []
    sound(workspace)


def test_tasks_that_remember_nothing_do_not_fill_the_sites_disk(
    mixed: Mixed, workspace_of: Workspace
) -> None:
    params = mixed("model.trees.rounds=4", "aggregation.evaluate_every=0")
    workspace = workspace_of(params)
    contract, most = contract_for(params), 0
    for step in plan_of(params, contract):
        store = store_of(params, workspace)
        context = open_run(params, contract, roster_for(workspace), "one", store, workspace)
        execute(step, context)
        if step.name.endswith("/aggregate"):
            clear(context, step.round, record(context, step.round) or {}, print)
            most = max(most, len(stored(workspace, "a")))
    sound(workspace)
    assert most == 1 + 3, "statistics, and of four trees one"


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
    assert spent_file(context, home, 0, 3000) is None
    assert spent_file(opened_for(params, workspace, "two"), home, 6, 3000) is None
    other = params.model_copy(
        update={"federation": params.federation.model_copy(update={"name": "other"})}
    )
    assert spent_file(opened_for(other, workspace, "one"), home, 6, 3000) is None
    second = home.root / "second"
    second.hardlink_to(made["r4"])
    told = [spent_file(context, home, 6, size) for size in (2900, 1, 1, 1)]
    assert told == [str(made["r3"]), str(made["r1"]), str(made["r2"]), None]
    assert all(path.exists() for path in made.values()), "depth 3: a tree's worth is kept"
    anew = opened_for(params, workspace, "one")
    for name, number in (("r5", 5), ("r6", 6)):
        made[name] = home.releases / (name.encode().hex() * 8)
        made[name].write_bytes(b"x")
        note(context, home, number, made[name].name)
    assert spent_file(anew, home, 6, 1) in {str(made["r5"]), str(made["r6"])}
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


def test_a_run_that_was_cut_off_goes_on_to_the_same_model(
    mixed: Mixed, workspace_of: Workspace
) -> None:
    """Ended between a tree's last record and the removal of its sums, and again within the next tree."""
    params = mixed(THREE)
    workspace, other = workspace_of(params), workspace_of(params, "other")

    class Cut(Exception):
        pass

    for last, left in ((5, {3, 4, 5}), (7, {6, 7})):

        def after(number: int, rounds: int, record: dict[str, Any], last: int = last) -> None:
            if number == last:
                raise Cut

        with pytest.raises(Cut):
            run(params, run="one", workspace=workspace, progress=Progress(round=after))
        found = updates(opened(params, workspace, "one"), 11)
        assert found.keys() == {keys.update(r, s) for r in left for s in SITES}
    resumed = run(params, run="one", workspace=workspace)
    whole = run(params, run="one", workspace=other)
    models = [
        model_of(opened(params, w, "one"), r["model"])
        for w, r in ((workspace, resumed), (other, whole))
    ]
    assert models[0].arrays["trees"].tobytes() == models[1].arrays["trees"].tobytes()
    assert updates(opened(params, workspace, "one"), 11) == {}
    sound(workspace)


def test_a_clearing_that_was_cut_off_is_made_good(
    mixed: Mixed, workspace_of: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = mixed("model.trees.rounds=2")
    workspace = workspace_of(params)
    whole, calls = ExchangeStore.clear, list[int]()

    def cut(store: ExchangeStore, keys: Any) -> int:
        calls.append(1)
        if len(calls) == 4:  # counts twice, then of the first tree round 5; not 4 and 3
            raise KeyboardInterrupt
        return whole(store, keys)

    monkeypatch.setattr(ExchangeStore, "clear", cut)
    with pytest.raises(KeyboardInterrupt):
        run(params, run="one", workspace=workspace)
    left = updates(opened(params, workspace, "one"), 8)
    assert {key.partition("/")[0] for key in left} == {"round-003", "round-004"}
    run(params, run="one", workspace=workspace)
    assert updates(opened(params, workspace, "one"), 8) == {}


def test_a_run_that_ends_within_a_tree_leaves_no_sums(
    mixed: Mixed, workspace_of: Workspace
) -> None:
    """b is lost in round 7: the second tree begins again, and there are not rounds enough for it."""
    params = mixed("federation.quorum=2")
    workspace = workspace_of(params)
    for settings in workspace.glob("sites/*/site.toml"):
        settings.write_text(with_two(settings.read_text()))
    result = run(params, run="one", workspace=workspace, progress=Away(workspace, "b", 6, 8))
    context = opened(params, workspace, "one")
    last = record(context, result["rounds"]) or {}
    assert last["boosting"]["restarts"] == 1
    assert last["boosting"]["level"] != 0
    assert updates(context, result["rounds"]) == {}


def test_a_store_that_keeps_what_it_should_remove_ends_no_run(
    mixed: Mixed, workspace_of: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    params = mixed("model.trees.rounds=1")
    workspace = workspace_of(params)

    def refuse(store: ExchangeStore, keys: Any) -> int:
        raise TransientError("transient.exchange", "Not removed (PermissionError).", "Allow it.")

    monkeypatch.setattr(ExchangeStore, "clear", refuse)
    run(params, run="one", workspace=workspace, progress=Progress(say=said.append))
    assert len(updates(opened(params, workspace, "one"), 5)) == 15
    assert sum("stay in the exchange store" in line for line in said) == 3
    monkeypatch.undo()
    context = opened(params, workspace, "one")
    again = [clear(context, r, record(context, r) or {}, said.append) for r in (1, 2, 5)]
    assert again == [3, 3, 9]


def test_a_site_and_a_folder_that_cannot_be_removed_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coordinator"):
        ExchangeStore("https://coordinator.example.org/exchange/v1").clear(["a"])
    (tmp_path / "f/runs/r/round-001/update-c/inside").mkdir(parents=True)
    with pytest.raises(TransientError, match="did not remove"):
        ExchangeStore(str(tmp_path)).clear(["f/runs/r/round-001/update-c"])


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


def test_records_say_what_went(mixed: Mixed, workspace_of: Workspace) -> None:
    """The sums are gone; who sent what is not."""
    params = mixed("model.trees.rounds=1")
    workspace = workspace_of(params)
    run(params, run="one", workspace=workspace)
    context = opened(params, workspace, "one")
    said = json.loads(context.store.get(context.key(keys.record(4))))["updates"]
    for site in SITES:
        ledger = open_ledger(SiteHome.find(site, workspace))
        committed = {e.content["round"]: e.content for e in ledger.entries() if e.kind == "commit"}
        assert committed[4]["artefact"] == said[site]
        ledger.close()
