"""Margins of a site's rows: tree by tree they are the bits of the whole booster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import ProtocolError
from folkmoot.models.trees import empty_model, to_scores, to_xgboost
from folkmoot.updates import TreeUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import trees as coordinator
from site_tasks import margins as module
from site_tasks.margins import margins, threads
from site_tasks.train_trees import scores

from .conftest import Release, World
from .test_merge import grow_at

TASKS = ("binary", "multiclass", "regression")
BASE: dict[str, list[float]] = {
    "binary": [0.3],
    "multiclass": [-0.5, 0.1, 0.4],
    "regression": [1.7],
}


def models(world: World, release: Release, task: str, rounds: int = 3) -> list[Artefact]:
    """Global models of the first rounds of bagging; each site keeps its margins as it goes."""
    found = [empty_model(world.context.contract, world.context.params, BASE[task])]
    for round in range(1, rounds + 1):
        updates = [
            release(world.context, site, round, update=grow_at(world, found[-1], site, round))
            for site in world.homes
        ]
        arrays, changes = coordinator.aggregate(found[-1], updates, world.context, round)
        found.append(Artefact("model", {**found[-1].meta, **changes, "round": round}, arrays))
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_tree_by_tree_equals_the_whole_booster(
    world: Callable[..., World], release: Release, task: str, part: Any
) -> None:
    here = world(task, "model.trees.trees_per_round=2")
    grown = models(here, release, task)
    home, prepared = here.homes["b"], here.prepared["b"]
    for model in grown:  # in memory or from the site's file, only new trees are predicted
        stepwise = margins(model, prepared, part, here.fresh(), home)
        (home.work / "margins" / f"demo-{part}.bin").unlink()
        alone = margins(model, prepared, part, here.fresh(), home)
        booster = to_xgboost(model)
        whole = booster.inplace_predict(prepared.matrix(part), predict_type="margin")
        assert np.array_equal(stepwise, alone)
        assert np.array_equal(stepwise, whole)


def test_only_new_trees_are_read(
    world: Callable[..., World], release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world("binary")
    grown = models(here, release, "binary")
    read: list[int] = []
    original = module.make_booster

    def counting(meta: Any, trees: Any, **more: Any) -> Any:
        read.append(len(trees))
        return original(meta, trees, **more)

    monkeypatch.setattr(module, "make_booster", counting)
    args = (here.prepared["a"], "test")
    context = here.fresh()
    for model in [*grown, grown[-1]]:
        margins(model, *args, context, here.homes["a"])  # type: ignore[arg-type]
    assert read == [0, 4, 4, 4], "one process remembers"
    margins(grown[-1], here.prepared["b"], "test", context, here.homes["b"])
    assert read[4:] == [12], "another site of the process has all trees to read"
    read.clear()
    for model in [*grown, grown[-1]]:
        margins(model, *args, here.fresh(), here.homes["a"])  # type: ignore[arg-type]
    assert read == [4, 4, 4], "a process per step finds what the step before left"
    margins(grown[1], *args, here.fresh(), here.homes["a"])  # type: ignore[arg-type]
    assert read[3:] == [4], "an older model starts anew"


@pytest.mark.parametrize("task", TASKS)
def test_blocks_change_no_bit(
    world: Callable[..., World], release: Release, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    here = world(task)
    home, prepared = here.homes["a"], here.prepared["a"]
    grown = models(here, release, task, 2)
    whole = [margins(model, prepared, "train", here.fresh(), home) for model in grown]
    monkeypatch.setattr(module, "MAPPED", 0)
    monkeypatch.setattr(module, "BLOCK", 64)
    (home.work / "margins" / "demo-train.bin").unlink()
    context = here.fresh()
    for model, expected in zip(grown, whole, strict=True):
        assert np.array_equal(margins(model, prepared, "train", context, home), expected)


@pytest.mark.parametrize("damage", [b"", b"FOLKMOOT", b"x" * 500])
def test_a_damaged_file_is_made_again(
    world: Callable[..., World], release: Release, damage: bytes
) -> None:
    here = world("binary")
    model = models(here, release, "binary", 1)[-1]
    args = (here.prepared["a"], "train")
    before = margins(model, *args, here.fresh(), here.homes["a"])  # type: ignore[arg-type]
    file = here.homes["a"].work / "margins" / "demo-train.bin"
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(damage)
    again = margins(model, *args, here.fresh(), here.homes["a"])  # type: ignore[arg-type]
    assert np.array_equal(again, before)


def test_margins_of_other_rows_are_not_used(world: Callable[..., World], release: Release) -> None:
    here = world("binary")
    model = models(here, release, "binary", 1)[-1]
    home = here.homes["a"]
    margins(model, here.prepared["a"], "train", here.context, home)
    other = margins(model, here.prepared["c"], "train", here.fresh(), home)
    assert len(other) == here.prepared["c"].rows["train"]


def test_another_base_score_is_another_model(world: Callable[..., World]) -> None:
    here = world("binary")
    home, prepared = here.homes["a"], here.prepared["a"]
    found = []
    for base in (0.2, 0.4):
        model = empty_model(here.context.contract, here.context.params, [base])
        found.append(scores(model, prepared, "test", here.context, home))
        np.testing.assert_allclose(found[-1], base, rtol=1e-6)


CHANGES: dict[str, dict[str, Any]] = {
    "other features": {"features": ["a", "b", "c", "d", "e"]},
    "other types": {"feature_types": ["q"] * 5},
    "other categories": {"levels": [0, 0, 10**9, 0, 3]},
    "another objective": {"objective": "rank:pairwise"},
    "another number of classes": {"num_class": 10**9},
    "a base score in text": {"base_score": ["x"]},
    "no base score": {"base_score": []},
    "a base score out of range": {"base_score": [1.0]},
    "two base scores": {"base_score": [0.1, 0.2]},
    "another kind": {"kind": "linear"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_foreign_header_is_refused(world: Callable[..., World], change: str) -> None:
    here = world("binary")
    model = empty_model(here.context.contract, here.context.params, [0.5])
    model = replace(model, meta={**model.meta, **CHANGES[change]})
    with pytest.raises(ProtocolError) as caught:
        margins(model, here.prepared["a"], "train", here.context, here.homes["a"])
    assert caught.value.code == "protocol.mismatch"


def test_malformed_trees_of_the_coordinator_are_refused(world: Callable[..., World]) -> None:
    here = world("binary")
    model = empty_model(here.context.contract, here.context.params, [0.5])
    for data in (b'[{"left_children":[0]}]', b"[", b"", b"[1,2]"):
        broken = replace(model, arrays={"trees": np.frombuffer(data, np.uint8)})
        with pytest.raises(ProtocolError):
            margins(broken, here.prepared["a"], "train", here.context, here.homes["a"])


def test_a_site_without_held_out_rows(world: Callable[..., World], release: Release) -> None:
    here = world("multiclass")
    model = models(here, release, "multiclass", 1)[-1]
    prepared = replace(here.prepared["a"], rows={"train": 300, "test": 0}, _open={})
    for name, empty in (("test", np.zeros((0, 5))), ("test-labels", np.zeros(0, np.int64))):
        np.save(prepared.folder / f"{name}.npy", empty)
    found = margins(
        model, replace(prepared, digest="0" * 64), "test", here.context, here.homes["a"]
    )
    assert found.shape == (0, 3)
    assert to_scores(found, "multiclass").shape == (0, 3)


def test_threads_follow_host_and_rows(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world("binary")
    small = here.prepared["a"]
    large = replace(small, rows={"train": 10**7, "test": 1})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert (threads(here.context, small), threads(here.context, large)) == (1, 1)
    here.context.cache["threads"] = 5
    assert (threads(here.context, small), threads(here.context, large)) == (1, 5)


def test_updates_hold_no_counts(world: Callable[..., World]) -> None:
    here = world("binary")
    model = empty_model(here.context.contract, here.context.params, [0.5])
    update = grow_at(here, model, "a", 1)
    assert isinstance(update, TreeUpdate)
    assert b"sum_hessian" not in update.trees
    assert update.weight == here.prepared["a"].rows["train"]
