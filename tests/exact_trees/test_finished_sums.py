"""Sums of finished trees leave the exchange store, and a site's files take those of the next tree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.errors import ConfigError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import Params
from folkmoot.plan import RunContext, keys
from folkmoot.wire import digest
from pipelines.coordinator.finished_sums import clear
from pipelines.coordinator.open_round import open_run
from pipelines.hosts.embedded import Progress, run
from pipelines.hosts.execute import execute, store_of
from pipelines.hosts.walk import contract_for, record, roster_for
from pipelines.plans import plan_of
from site_tasks.home import SiteHome
from site_tasks.release import check_releases, open_ledger

from .conftest import SITES, Away, model_of, opened, stored, with_two

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
