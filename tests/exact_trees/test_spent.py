"""Sums of finished trees leave the exchange store, and a site's files take those of the next tree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
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
from site_tasks.home import SiteHome
from site_tasks.persist import persist
from site_tasks.release import check_releases, open_ledger

from .conftest import SITES, model_of, opened

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
    if protection == "none":
        assert len(stored(one, "a")) < len(stored(other, "a")) - 4
        assert len(inodes) <= 9, "the third tree's files are the first one's or the second's"


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
    before = 4  # statistics, two counts, and the final evaluation's place
    assert most <= before + 3 * 3, "of four trees never more than three lie there"


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
    assert clear(context, 5, record(context, 5) or {}, said.append) == 15


def test_stores_remove_what_is_named_and_say_how_much(tmp_path: Path) -> None:
    for url in (str(tmp_path / "folder"), "memory://spent"):
        store = ExchangeStore(url)
        assert store.clear(["f/runs/r/round-001/update-a"]) == 0
        for name in ("update-a", "update-b", "model"):
            store.put(f"f/runs/r/round-001/{name}", name.encode())
        named = [f"f/runs/r/round-00{n}/update-{s}" for n in (1, 2) for s in "ac"]
        assert store.clear(named) == 1
        assert [key.rpartition("/")[2] for key in store.list("f/runs/r/round-001")] == [
            "model",
            "update-b",
        ]
    fsspec.filesystem("memory").store.clear()
    with pytest.raises(ConfigError, match="coordinator"):
        ExchangeStore("https://coordinator.example.org/exchange/v1").clear(["a"])
    (tmp_path / "folder" / "f/runs/r/round-001/update-c/inside").mkdir(parents=True)
    with pytest.raises(TransientError, match="did not remove"):
        ExchangeStore(str(tmp_path / "folder")).clear(["f/runs/r/round-001/update-c"])


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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old", "second"]


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
