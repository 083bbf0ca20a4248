"""Whole runs: one booster of all sites, sessions that break in every way, and what comes after."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import FolkmootError, ProtocolError, TransientError
from folkmoot.identity import sign
from folkmoot.live.certificates import issue
from folkmoot.live.figures import NAMES
from folkmoot.models.trees import to_xgboost, tree_bytes
from folkmoot.params import Params
from folkmoot.plan import RunContext, Step, keys
from folkmoot.privacy.ledger import Ledger
from folkmoot.wire import Artefact, decode, encode
from pipelines.coordinator import tree_plots
from pipelines.hosts.embedded import run
from pipelines.hosts.execute import execute, open_context, store_of
from pipelines.plans import plan_of
from site_tasks.home import SiteHome
from site_tasks.live import train as live
from site_tasks.prepared import load_prepared
from tests.conftest import copy_workspace

from .conftest import SITES, Watched, params

Undisturbed = tuple[Path, dict[str, Any]]


def opened(settings: Params, workspace: Path, name: str) -> RunContext:
    return open_context(name, settings.federation.name, store_of(settings, workspace), workspace)


def model_of(context: RunContext, key: str) -> Artefact:
    return decode(context.store.get(context.key(key)), kind="model")


def parts(context: RunContext, site: str, key: str) -> Artefact:
    data = context.store.get(context.key(key))
    return decode(data[:-84], kind="update")


def test_all_sites_hold_one_booster_and_their_ledgers_an_entry_before_it(
    undisturbed: Undisturbed,
) -> None:
    workspace, result = undisturbed
    context = opened(params(), workspace, "one")
    model = model_of(context, result["model"])
    assert model.meta["trees"] == 6
    assert sorted(model.meta["participants"]) == SITES
    assert result["metrics"]["overall"]["auc"] > 0.98
    booster = to_xgboost(model)
    for site in SITES:
        home = SiteHome.find(site, workspace)
        prepared = load_prepared(context, home)
        margins = booster.inplace_predict(prepared.matrix("train"), predict_type="margin")
        right = (margins > 0) == (prepared.labels("train") == 1)
        assert right.mean() > 0.9
        steps = [e.content["step"] for e in Ledger(home.ledger_path, site) if "step" in e.content]
        joined = steps.index(f"round-001/join/{site}")
        assert joined < steps.index(f"round-001/train/{site}")
        assert not list(home.work.glob("live/*/*"))  # keys and trees of the session are gone
    assert not list((workspace / "coordinator").glob(".live-*"))
    # What lies outside the run holds no key: certificates, beats and words alone.
    session = "".join(
        p.read_bytes().decode("latin1")
        for p in workspace.glob("exchange/*/sessions/**/*")
        if p.is_file()
    )
    assert "BEGIN CERTIFICATE" in session
    assert "PRIVATE" not in session


def test_rates_by_step_and_early_stopping(workspace_of: Callable[..., Path]) -> None:
    loose = ["model.trees.min_child_weight=0.0", "model.trees.reg_lambda=0.0"]  # overfits soon
    settings = params(
        *loose,
        "model.trees.rounds=6",
        "model.trees.trees_per_round=4",
        "model.trees.early_stopping_rounds=4",
        f"model.trees.learning_rates={[0.6] + [1.0] * 23}",
    )
    workspace = workspace_of(settings)
    result = run(settings, run="one", workspace=workspace)
    context = opened(settings, workspace, "one")
    model = model_of(context, result["model"])
    usual = params(*loose, "model.trees.trees_per_round=1", "model.trees.eta=0.6")
    once = run(usual, run="two", workspace=workspace)
    alone = model_of(opened(usual, workspace, "two"), once["model"])
    trees = json.loads(tree_bytes(model))
    assert trees[0] == json.loads(tree_bytes(alone))[0]

    losses = {}
    for round in range(2, result["rounds"] + 1):
        record = json.loads(context.store.get(context.key(keys.record(round))))
        losses[4 * (round - 1)] = record["metrics"]["overall"]["log_loss"]
    best = min(losses, key=lambda step: losses[step])
    assert result["rounds"] < 6
    assert model.meta["boosting"]["stop"] == "early_stopping"
    assert (
        model.meta["boosting"]["steps"]
        == model.meta["trees"]
        == best
        == max(losses) - 4
        == len(trees)
    )
    nodes = sum(len(tree["left_children"]) for tree in trees)
    assert [len(model.arrays[name]) for name in NAMES] == [nodes, nodes]
    assert result["metrics"]["overall"]["log_loss"] == pytest.approx(losses[best], rel=1e-9)


def test_whatever_ends_a_session_names_the_site_and_the_run_goes_on_to_the_same_trees(
    undisturbed: Undisturbed,
    workspace_of: Callable[..., Path],
    workers: type[Watched],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker killed, one stopped, one with a wrong certificate; three trees are kept all along."""
    settings = params(
        "model.trees.rounds=2",
        "model.trees.trees_per_round=3",
        "model.trees.tracker.quiet_seconds=5",
        "model.trees.tracker.step_seconds=40",
    )
    workspace = workspace_of(settings)

    def broken(site: str, message: str) -> None:
        before = len(workers.started)
        began = time.monotonic()
        with pytest.raises(TransientError, match=message) as caught:
            run(settings, run="two", workspace=workspace)
        assert (caught.value.code, caught.value.site) == ("transient.session", site)
        assert time.monotonic() - began < settings.federation.deadline_seconds
        assert len(workers.started) >= before + 3
        assert all(child.ended for child in workers.started)
        assert not list((workspace / "coordinator").glob(".live-*"))
        context = opened(settings, workspace, "two")
        assert model_of(context, keys.model(1)).meta["trees"] == 3
        for one in SITES:  # nobody released what not all hold
            assert context.store.find(context.key(keys.update(2, one))) is None

    def at(site: str, step: int, number: int) -> Callable[[Watched, dict[str, Any]], None]:
        def meddle(child: Watched, said: dict[str, Any]) -> None:
            second = len(workers.started) > 3  # the first round is left alone
            if second and child.site == site and said.get("step") == step:
                os.kill(child.pid, number)

        return meddle

    monkeypatch.setattr(workers, "meddle", at("b", 1, signal.SIGKILL))
    broken("b", "worker of site b ended")
    monkeypatch.setattr(workers, "meddle", at("c", 0, signal.SIGSTOP))
    broken("c", "worker of site c went quiet")
    monkeypatch.setattr(workers, "meddle", lambda child, said: None)

    honest = live.write

    def swapped(folder: Path, texts: dict[str, str]) -> dict[str, str]:
        if "/sites/a/" in str(folder):
            own, key = issue("a", "127.0.0.1", 60)
            texts = {**texts, "own": own, "key": key}
        return honest(folder, texts)

    with monkeypatch.context() as patch:
        patch.setattr(live, "write", swapped)
        broken("a", "does not accept its certificate")

    # As if all had been killed: an attempt that nobody ended, with the sites' words in it.
    max(workspace.glob("exchange/demo/sessions/two/round-002-*/*/over.json")).unlink()
    began = len(workers.started)
    result = run(settings, run="two", workspace=workspace)
    assert len({c.pid for c in workers.started[began:] if c.site}) == 3  # the second round alone
    reference, one = undisturbed
    wanted = model_of(opened(params(), reference, "one"), one["model"])
    context = opened(settings, workspace, "two")
    assert tree_bytes(model_of(context, result["model"])) == tree_bytes(wanted)


def test_who_has_the_trees_releases_them_without_another_session(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, result = undisturbed
    settings = params()
    workspace = copy_workspace(source, tmp_path / "workspace")
    context = opened(settings, workspace, "one")
    shutil.rmtree(workspace / "exchange" / "demo" / "runs" / "one" / "round-001")
    shutil.rmtree(workspace / "exchange" / "demo" / "runs" / "one" / "final")
    # Site b was stopped between the last word and its release.
    update = SiteHome.find("b", source).releases
    trees = parts(opened(settings, source, "one"), "b", keys.update(1, "b"))
    home = SiteHome.find("b", workspace)
    for path in update.iterdir():
        if b"round-001/train/b" in path.read_bytes():
            (home.releases / path.name).unlink()
    (key,) = [n for n in trees.arrays if n.endswith("trees")]
    folder = next(workspace.glob("exchange/demo/sessions/one/round-001-*")).name
    kept = home.work / "live" / "demo--one" / folder.removeprefix("round-")
    kept.mkdir(parents=True)
    prepared = load_prepared(context, home)
    figures = {n.removeprefix("figures."): a for n, a in trees.arrays.items() if "figures" in n}
    assert figures.keys() == NAMES.keys()
    values = {
        "prepared": prepared.digest,
        "trees": trees.arrays[key].tobytes().decode(),
        "figures": {n: a.tolist() for n, a in figures.items()},
    }
    (kept / "kept.json").write_text(json.dumps(values))

    def refuse(*_: Any) -> None:
        raise AssertionError("nobody has to train")

    monkeypatch.setattr(live, "Child", refuse)
    again = run(settings, run="one", workspace=workspace)
    assert again["model_digest"] == result["model_digest"]
    assert not kept.exists()


def test_gain_and_cover_are_those_of_all_sites_rows(undisturbed: Undisturbed) -> None:
    """The first root, summed by hand; then every node's cover is that of its children."""
    workspace, result = undisturbed
    context = opened(params(), workspace, "one")
    model = model_of(context, result["model"])
    prepared = [load_prepared(context, SiteHome.find(s, workspace)) for s in SITES]
    x = np.concatenate([p.matrix("train") for p in prepared])
    y = np.concatenate([p.labels("train") for p in prepared])
    share = float(model.meta["base_score"][0])
    tree = json.loads(tree_bytes(model))[0]
    values = x[:, tree["split_indices"][0]].astype(np.float32)
    left = values < np.float32(tree["split_conditions"][0])
    left |= np.isnan(values) & bool(tree["default_left"][0])

    def score(rows: Any) -> float:
        gradient, hessian = float((share - y[rows]).sum()), rows.sum() * share * (1 - share)
        return gradient**2 / (hessian + context.params.model.trees.reg_lambda)

    gain = score(left) + score(~left) - score(left | ~left)
    assert model.arrays["gain"][0] == pytest.approx(gain, rel=1e-4)
    assert model.arrays["hessian"][0] == pytest.approx(len(y) * share * (1 - share), rel=1e-4)
    saved = json.loads(bytes(to_xgboost(model).save_raw("json")))
    made = saved["learner"]["gradient_booster"]["model"]["trees"]
    assert len(made) == 6
    for own in made:
        cover = np.asarray(own["sum_hessian"])
        for node, child in enumerate(own["left_children"]):
            if child != -1:
                below = cover[child] + cover[own["right_children"][node]]
                assert below == pytest.approx(cover[node], rel=1e-4)
                assert own["loss_changes"][node] > 0
    told = {name: json.loads(text) for name, text in tree_plots.tables(model, context).items()}
    assert told["importance.json"]["what"] == "share of the gain, from released sums alone"
    assert sum(told["importance.json"]["importance"].values()) == pytest.approx(1.0)
    # A site's own trees, and what it keeps of them, go with the session: all sites released the same.
    sent = [parts(context, site, keys.update(1, site)).arrays for site in SITES]
    for name in sent[0]:
        if "figures" in name:
            assert {a[name].tobytes() for a in sent} == {sent[0][name].tobytes()}


def test_a_session_of_an_older_version_ends_the_figures_and_not_the_run(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    source, result = undisturbed
    workspace = copy_workspace(source, tmp_path / "workspace")
    context = opened(params(), workspace, "one")

    def without(arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        for name in [n for n in arrays if "figures" in n]:
            del arrays[name]
        del meta["parts"]["figures"], meta["receipt"]["events"]["figures"]
        del meta["receipt"]["unaccounted"]["figures"]

    step = _forged(context, workspace, without)
    execute(step, context)
    model = model_of(context, keys.model(1))
    assert "gain" not in model.arrays
    assert model.arrays["trees"].tobytes() == tree_bytes(model_of(context, result["model"]))
    assert to_xgboost(model).num_boosted_rounds() == 6


@pytest.mark.parametrize(
    ("lie", "match"),
    [
        ("tree", "other trees"),
        ("gain", "other trees"),
        ("cover", "fit its trees"),
        ("short", "fit its trees"),
        ("nan", "well-formed"),
    ],
)
def test_other_trees_than_the_sessions_are_refused_by_name(
    undisturbed: Undisturbed, tmp_path: Path, lie: str, match: str
) -> None:
    source, _ = undisturbed
    workspace = copy_workspace(source, tmp_path / "workspace")
    context = opened(params(), workspace, "one")

    def forge(arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        (trees,) = [n for n in arrays if n.endswith("trees")]
        (gain,) = [n for n in arrays if n.endswith("gain")]
        (cover,) = [n for n in arrays if n.endswith("hessian")]
        if lie == "tree":
            made = json.loads(arrays[trees].tobytes())
            made[0]["split_conditions"][-1] = 0.5
            data = json.dumps(made, sort_keys=True, separators=(",", ":")).encode()
            arrays[trees] = np.frombuffer(data, np.uint8)
        elif lie == "short":
            arrays[gain] = arrays[gain][:-1]
        else:
            name, value = {
                "gain": (gain, 1e6),
                "cover": (cover, -1.0),
                "nan": (gain, np.nan),
            }[lie]
            arrays[name] = np.where(np.arange(len(arrays[name])) == 1, value, arrays[name])
            arrays[name] = arrays[name].astype(np.float32)

    step = _forged(context, workspace, forge)
    with pytest.raises(ProtocolError, match=f"(?i)site c .*{match}") as caught:
        execute(step, context)
    assert caught.value.site == "c"


def _forged(
    context: RunContext,
    workspace: Path,
    forge: Callable[[dict[str, Any], dict[str, Any]], None],
) -> Step:
    """The step that closes the round, once site c's update is another one under c's own key."""
    folder = Path(context.store.url) / context.key("round-001")
    found = parts(context, "c", keys.update(1, "c"))
    arrays, meta = dict(found.arrays), json.loads(json.dumps(found.meta))
    forge(arrays, meta)
    data = encode(Artefact("update", meta, arrays))
    (folder / "update-c").write_bytes(sign(data, SiteHome.find("c", workspace).key()))
    for key in ("model", "model.signature", "record.json", "record.json.signature"):
        (folder / key).unlink()
    return plan_of(context.params, context.contract).step("round-001/aggregate")


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"trackers": []}, "permissions.trackers"),
        ({"trackers": ["127.0.0.1:5000"]}, "permissions.trackers"),
        ({"insist_on_masks": True}, "permissions.insist_on_masks"),
        ({"minimum_contributors": 4}, "permissions.minimum_contributors"),
    ],
)
def test_a_site_that_does_not_permit_it_is_asked_for_nothing(
    workspace_of: Callable[..., Path],
    workers: type[Watched],
    setting: dict[str, Any],
    key: str,
) -> None:
    from site_tasks.settings import save_settings

    settings = params()
    workspace = workspace_of(settings)
    home = SiteHome.find("b", workspace)
    allowed = home.settings.permissions.model_copy(update=setting)
    changed = home.settings.model_copy(update={"permissions": allowed})
    save_settings(changed, home.root / "site.toml")
    with pytest.raises(FolkmootError, match=key) as caught:
        run(settings, run="no", workspace=workspace)
    assert (caught.value.code, caught.value.site) == ("privacy.not-permitted", "b")
    assert not workers.started
    assert not list(workspace.glob("exchange/demo/sessions/**/start.json"))
