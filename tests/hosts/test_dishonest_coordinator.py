"""Global models that no coordinator of ours would publish: sites refuse, name why, release nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import FolkmootError, PrivacyError, ProtocolError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity.orders import order, signature_key
from folkmoot.params import Params, parse_params
from folkmoot.plan import keys
from folkmoot.wire import Artefact, decode, digest, encode
from pipelines.coordinator.identity import coordinator_key
from pipelines.coordinator.open_round import open_run
from pipelines.hosts.execute import execute, open_context
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of
from site_tasks.home import SiteHome
from site_tasks.release import open_ledger
from site_tasks.settings import save_settings
from tests.conftest import copy_workspace, signed_anew

SITE = "site-a"
BASE = ["federation.sites=[site-a]", "data.recipe=synthetic", "data.rows=120", "data.columns=4"]
GAUSSIAN = [
    "model.linear.strategy=fedavg",
    "privacy.mechanism=gaussian",
    "privacy.noise_multiplier=2.0",
    "data.scaling=bounds",
    "aggregation.weighting=uniform",
]
Arrays = dict[str, Any]


class Trial:
    """One site before its first round, and a coordinator that may publish anything."""

    def __init__(self, params: Params, workspace: Path) -> None:
        self.params, self.workspace = params, workspace
        contract = contract_for(params)
        self.plan = plan_of(params, contract)
        store = ExchangeStore(workspace / "exchange")
        self.context = open_run(params, contract, roster_for(workspace), "r", store, workspace)
        for step in (*self.plan.stage("prepare/"), self.plan.step("round-000/initialise")):
            execute(step, self.context)
        self.home = SiteHome.find(SITE, workspace)

    def train(self, name: str, change: Callable[[dict[str, Any], Arrays], None]) -> Any:
        """Let the site train on a changed initial model, in an exchange store of its own."""
        model = decode(self.context.store.get(self.context.key(keys.model(0))))
        meta, arrays = dict(model.meta), dict(model.arrays)
        change(meta, arrays)
        store = ExchangeStore(self.workspace / name)
        context = replace(self.context, store=store, cache={})
        signed_anew(context, keys.RUN, self.context.store.get(self.context.key(keys.RUN)))
        signed_anew(context, keys.model(0), encode(Artefact("model", meta, arrays)))
        return execute(self.plan.step(f"round-001/train/{SITE}"), context)

    def reservations(self) -> int:
        return sum(entry.kind == "reserve" for entry in open_ledger(self.home).entries())

    def permit(self, **changes: Any) -> None:
        permissions = self.home.settings.permissions.model_copy(update=changes)
        settings = self.home.settings.model_copy(update={"permissions": permissions})
        save_settings(settings, self.home.root / "site.toml")


@pytest.fixture
def trial(prototype: Any, tmp_path: Path) -> Callable[..., Trial]:
    def make(*overrides: str) -> Trial:
        params = parse_params({}, [*BASE, *overrides])
        workspace = copy_workspace(prototype(params), tmp_path / "w")
        return Trial(params, Path(workspace))

    return make


def _fill(name: str, value: float) -> Callable[[dict[str, Any], Arrays], None]:
    return lambda meta, arrays: arrays.update({name: np.full_like(arrays[name], value)})


BAD_LINEAR: dict[str, Callable[[dict[str, Any], Arrays], None]] = {
    "mean with gaps": _fill("mean", np.nan),
    "scale with gaps": _fill("scale", np.nan),
    "scale zero": _fill("scale", 0.0),
    "scale below zero": _fill("scale", -1.0),
    "coef infinite": _fill("coef", np.inf),
    "coef wide": lambda meta, arrays: arrays.update(coef=np.zeros((1, 400))),
    "classes more": lambda meta, arrays: arrays.update(
        coef=np.zeros((5000, 4)), intercept=np.zeros(5000)
    ),
    "coef of integers": lambda meta, arrays: arrays.update(coef=np.zeros((1, 4), np.int64)),
    "no scale": lambda meta, arrays: arrays.pop("scale"),
    "another kind": lambda meta, arrays: meta.update(kind="trees"),
    "no kind": lambda meta, arrays: meta.pop("kind"),
    "another round": lambda meta, arrays: meta.update(round=7),
}


@pytest.mark.parametrize("strategy", ["newton", "scaffold"])
def test_models_of_another_shape_are_refused_by_name(trial: Any, strategy: str) -> None:
    site = trial(f"model.linear.strategy={strategy}")
    assert site.train("true", lambda meta, arrays: None)
    for name, change in BAD_LINEAR.items():
        with pytest.raises(ProtocolError) as caught:
            site.train(name.replace(" ", "-"), change)
        assert (caught.value.code, caught.value.site) == ("protocol.mismatch", SITE), name


def _trees(change: Callable[[dict[str, Any]], None] | bytes) -> Callable[..., None]:
    stump = {
        "left_children": [1, -1, -1],
        "right_children": [2, -1, -1],
        "split_indices": [0, 0, 0],
        "split_conditions": [0.5, 0.1, -0.1],
        "split_type": [0, 0, 0],
        "default_left": [0, 0, 0],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
    }
    if isinstance(change, bytes):
        data = change
    else:
        change(stump)
        data = json.dumps([stump]).encode()
    return lambda meta, arrays: arrays.update(trees=np.frombuffer(data, np.uint8))


BAD_TREES = {
    "a cycle": _trees(lambda tree: tree.update(left_children=[0, -1, -1])),
    "a child far away": _trees(lambda tree: tree.update(left_children=[2**31, -1, -1])),
    "a feature far away": _trees(lambda tree: tree.update(split_indices=[2**31 - 1, 0, 0])),
    "a feature below zero": _trees(lambda tree: tree.update(split_indices=[-7, 0, 0])),
    "an infinite leaf": _trees(lambda tree: tree.update(split_conditions=[0.5, 1e300, 0.0])),
    "a category set": _trees(lambda tree: tree.update(categories=[2**31] * 9)),
    "ten thousand levels": _trees(b"[" * 10_000 + b"]" * 10_000),
    "a number of 9000 digits": _trees(b"[" + b"9" * 9000 + b"]"),
    "no text": _trees(b"\xff\xfe\x00"),
}


def test_trees_that_would_crash_xgboost_are_refused(trial: Any) -> None:
    site = trial("model.kind=trees", "model.trees.max_depth=2")
    assert site.train("true", _trees(lambda tree: None))
    for name, change in BAD_TREES.items():
        with pytest.raises(ProtocolError) as caught:
            site.train(name.replace(" ", "-"), change)
        assert (caught.value.code, caught.value.site) == ("protocol.format", SITE), name


def test_every_new_question_in_one_round_is_charged(trial: Any) -> None:
    """The same round over other models is another release each time, until the ceiling."""
    site = trial(*GAUSSIAN)
    site.permit(epsilon_ceiling=50.0)
    for n in range(3):
        site.train(f"ask-{n}", _fill("coef", float(n)))
        site.train(f"ask-{n}-again", _fill("coef", float(n)))  # the same question: stored bytes
    assert site.reservations() == 3
    spent = open_ledger(site.home).spent(1e-5)[0]
    site.permit(epsilon_ceiling=1.01 * spent)
    with pytest.raises(PrivacyError) as caught:
        site.train("ask-3", _fill("coef", 3.0))
    assert caught.value.code == "privacy.ceiling"
    assert site.reservations() == 3


def test_a_run_that_is_rewritten_meets_the_sites_own_permissions(trial: Any) -> None:
    """Sites read the plan from ``run.json``; what they permit stands in ``site.toml`` alone."""
    site = trial(*GAUSSIAN)
    site.permit(epsilon_ceiling=3.0, mechanisms=["gaussian"])
    path = site.workspace / "exchange" / site.context.key(keys.RUN)
    true = json.loads(path.read_bytes())
    lies: dict[str, dict[str, Any]] = {
        "privacy.not-permitted": {"mechanism": "none"},
        "privacy.ceiling": {"noise_multiplier": 0.01},
        "privacy.seeded": {"seeded": True},
    }
    for code, privacy in lies.items():
        lie = json.loads(json.dumps(true))
        lie["params"]["privacy"].update(privacy)
        signed_anew(site.context, keys.RUN, json.dumps(lie).encode())
        context = open_context("r", "demo", site.context.store, site.workspace)
        with pytest.raises(FolkmootError) as caught:
            execute(site.plan.step(f"round-001/train/{SITE}"), context)
        assert caught.value.code == code
    assert site.reservations() == 0


def test_a_model_or_a_run_that_the_coordinator_did_not_sign(trial: Any) -> None:
    """Who can write to the exchange store alone gives no orders."""
    site = trial()
    exchange, step = site.workspace / "exchange", site.plan.step(f"round-001/train/{SITE}")

    def refused(key: str, data: bytes, signature: bytes | None = None) -> None:
        paths = [exchange / site.context.key(k) for k in (key, signature_key(key))]
        before = [path.read_bytes() for path in paths]
        paths[0].write_bytes(data)
        if signature is None:
            paths[1].unlink()
        else:
            paths[1].write_bytes(signature)
        with pytest.raises(ProtocolError) as caught:
            execute(step, replace(site.context, cache={}))
        assert caught.value.code == "protocol.signature"
        for path, content in zip(paths, before, strict=True):
            path.write_bytes(content)

    own = {k: (exchange / site.context.key(k)).read_bytes() for k in (keys.RUN, keys.model(0))}
    signed = {k: (exchange / site.context.key(signature_key(k))).read_bytes() for k in own}
    for key, data in own.items():
        refused(key, data)  # no signature
        refused(key, data + b" ", signed[key])  # of other bytes
        for other in own.keys() - {key}:
            refused(key, data, signed[other])  # of another artefact
        forged = order("demo", "r", key, digest(data), site.home.key())
        refused(key, data, forged)  # of somebody else
        replayed = order("demo", "r0", key, digest(data), coordinator_key(site.workspace))
        refused(key, data, replayed)  # of another run
    assert execute(step, replace(site.context, cache={}))


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"{}", b'{"params": {}}', b"\xff", b"[" * 100_000, b'{"params": 1e400}'],
)
def test_a_damaged_run_is_one_clear_error(trial: Any, text: bytes) -> None:
    site = trial()
    path = site.workspace / "exchange" / site.context.key(keys.RUN)
    path.write_bytes(text)
    with pytest.raises(ProtocolError) as caught:
        open_context("r", "demo", site.context.store, site.workspace)
    assert caught.value.code == "protocol.format"
    path.write_bytes(b'{"params": {"federation": {"name": "Zyxwvcanary"}}}')
    with pytest.raises(ProtocolError) as caught:
        open_context("r", "demo", site.context.store, site.workspace)
    assert "Zyxwvcanary" not in str(caught.value)
