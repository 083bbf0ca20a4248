"""A member that signs nonsense: it is left out, or named, and the coordinator never falls over."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import FolkmootError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import sign
from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext, keys
from folkmoot.wire import Artefact, decode, encode
from pipelines.coordinator.open_round import load_json, open_run
from pipelines.hosts.execute import execute
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of
from site_tasks.home import SiteHome
from tests.conftest import copy_workspace

SITES = ["site-a", "site-b"]
PLANS = {
    "newton": (),
    "gaussian": (
        "model.linear.strategy=fedavg",
        "privacy.mechanism=gaussian",
        "privacy.noise_multiplier=1.0",
        "privacy.seeded=true",  # a study: only there exact counts stand beside noise
        "privacy.evaluation=exact",
        "data.scaling=bounds",
        "aggregation.weighting=uniform",
    ),
    "trees": ("model.kind=trees", "model.trees.max_depth=2"),
}
Change = Callable[[dict[str, Any], dict[str, Any]], None]


def params_of(plan: str, quorum: int = 1) -> Params:
    settings = [f"federation.sites={SITES}", f"federation.quorum={quorum}", "data.rows=200"]
    return parse_params({}, [*settings, "data.recipe=synthetic", "data.columns=4", *PLANS[plan]])


class Round:
    """A run up to its second aggregate, with a hand on what site-b signed."""

    def __init__(self, params: Params, workspace: Path) -> None:
        contract = contract_for(params)
        self.plan, self.workspace = plan_of(params, contract), workspace
        store = ExchangeStore(workspace / "exchange")
        self.context = open_run(params, contract, roster_for(workspace), "r", store, workspace)

    def until(self, last: str) -> None:
        for step in self.plan:
            if step.name == last:
                return
            execute(step, self.context)

    def forge(self, key: str, change: Change) -> None:
        """Sign other content in the site's name, as the site could."""
        path = self.workspace / "exchange" / self.context.key(key)
        found = decode(path.read_bytes()[:-84])
        meta, arrays = copy.deepcopy(dict(found.meta)), dict(found.arrays)
        change(meta, arrays)
        signing = SiteHome.find("site-b", self.workspace).key()
        path.write_bytes(sign(encode(Artefact("update", meta, arrays)), signing))

    def outcome(self, name: str) -> Any:
        """Record of the round or result, read with fresh eyes; the error's code where it ends."""
        again = RunContext(
            self.context.run,
            self.context.params,
            self.context.contract,
            self.context.roster,
            self.context.store,
            self.workspace,
        )
        try:
            execute(self.plan.step(name), again)
        except FolkmootError as error:
            return error.code
        final = name.startswith("final/")
        return load_json(again, keys.RESULT if final else keys.record(2))


def _receipt(**changes: Any) -> Change:
    return lambda meta, arrays: meta["receipt"].update(changes)


def _event(**event: Any) -> Change:
    return lambda meta, arrays: meta["receipt"]["events"].update(update=event)


def _meta(**changes: Any) -> Change:
    return lambda meta, arrays: meta.update(changes)


def _array(name: str, value: Any) -> Change:
    return lambda meta, arrays: arrays.update({name: value})


def _first(make: Callable[[Any], Any]) -> Change:
    """Change the first array of the update, whatever the strategy calls it."""

    def change(meta: dict[str, Any], arrays: dict[str, Any]) -> None:
        name = min(name for name in arrays if name.startswith("update."))
        arrays[name] = make(arrays[name])

    return change


LIES: dict[str, Change] = {
    "no dataset": lambda meta, arrays: meta.pop("dataset"),
    "dataset is text": _meta(dataset="x" * 64),
    "dataset is a structure": _meta(dataset={"rows": [1, 2, 3]}),
    "release id": _meta(release_id="../../etc"),
    "empty receipt": _meta(receipt={}),
    "no update": lambda meta, arrays: meta["parts"].pop("update"),
    "update as statistics": lambda meta, arrays: meta["parts"]["update"].update(kind="statistics"),
    "a part more": lambda meta, arrays: meta["parts"].update(more=meta["parts"]["update"]),
    "weight": lambda meta, arrays: meta["parts"]["update"].update(weight=10**400),
    "privacy is a word": _receipt(private="yes"),
    "events are a list": _receipt(events=[]),
    "another mechanism": _receipt(mechanism="diffprivlib"),
    "delta": _receipt(delta=0.5),
    "an unknown event": _event(event="oracle"),
    "an unhashable event": _event(event="gaussian", noise_multiplier=9.0, unit=["record"]),
    "less cost than planned": _event(event="gaussian", noise_multiplier=1e9, sensitivity=1e9),
    "another shape": _first(lambda array: np.ones((3, 7))),
    "another type": _first(lambda array: np.zeros(array.shape, bool)),
    "not a number": _first(lambda array: np.full(array.shape, np.nan)),
    "infinite": _first(lambda array: np.full(array.shape, np.inf)),
    "the update of the round before": _meta(round=1, step="round-001/train/site-b"),
    "counts below zero": _array("evaluation.rows", np.array(-5)),
    "counts past all rows": _array("evaluation.rows", np.array(2**62)),
    "counts of another shape": _array("evaluation.rows", np.array([1, 2])),
    "counts missing": lambda meta, arrays: arrays.pop("evaluation.rows"),
    "counts as floats": _array("evaluation.histogram", np.zeros((1, 2, 1024))),
}


@pytest.fixture(scope="module", params=PLANS)
def played(request: Any, prototype: Any, tmp_path_factory: Any) -> Round:
    """One run per plan; each test forges a copy of its exchange store."""
    params = params_of(request.param)
    workspace = tmp_path_factory.mktemp("dishonest") / "workspace"
    copy_workspace(prototype(params), workspace)
    play = Round(params, workspace)
    play.until("round-002/aggregate")
    return play


@pytest.fixture
def play(played: Round, tmp_path: Path) -> Round:
    workspace = tmp_path / "workspace"
    copy_workspace(played.workspace, workspace)
    return Round(played.context.params, workspace)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_leaves_its_site_out(play: Round, lie: str) -> None:
    play.forge(keys.update(2, "site-b"), LIES[lie])
    record = play.outcome("round-002/aggregate")
    assert list(record["participants"]) == ["site-a"], record
    assert record["missing"]["site-b"] in {"protocol.mismatch", "protocol.format"}
    assert all(np.isfinite(v) for v in record["metrics"]["overall"].values())


def test_the_truth_is_taken(play: Round) -> None:
    play.forge(keys.update(2, "site-b"), lambda meta, arrays: None)
    record = play.outcome("round-002/aggregate")
    assert list(record["participants"]) == SITES
    assert not record["missing"]


@pytest.mark.parametrize("value", [1.7e308, -1.7e308])
def test_numbers_at_the_edge_end_in_one_clear_error(play: Round, value: float) -> None:
    play.forge(
        keys.update(2, "site-b"),
        _first(lambda a: np.full_like(a, value) if a.dtype.kind == "f" else a),
    )
    with np.errstate(all="ignore"):
        outcome = play.outcome("round-002/aggregate")
    assert outcome == "round.diverged" or np.isfinite(outcome["change"] or 0.0)


def test_where_all_sites_are_needed_the_liar_is_named(prototype: Any, tmp_path: Path) -> None:
    params = params_of("newton", quorum=2)
    copy_workspace(prototype(params), tmp_path / "w")
    play = Round(params, tmp_path / "w")
    play.until("round-001/aggregate")
    play.forge(keys.update(1, "site-b"), LIES["another shape"])
    with pytest.raises(FolkmootError) as caught:
        execute(play.plan.step("round-001/aggregate"), play.context)
    assert (caught.value.code, caught.value.site) == ("protocol.mismatch", "site-b")


@pytest.mark.parametrize(
    "change",
    [
        _array("statistics.count", np.ones(3)),
        _array("statistics.count", np.full(4, -1)),
        _array("statistics.rows", np.array([1])),
        _array("statistics.rows", np.array(2**62)),
        _meta(dataset="x"),
        _receipt(private=True),
        lambda meta, arrays: arrays.pop("statistics.square"),
    ],
)
def test_false_statistics_leave_their_site_out(
    change: Change, prototype: Any, tmp_path: Path
) -> None:
    params = params_of("newton")
    copy_workspace(prototype(params), tmp_path / "w")
    play = Round(params, tmp_path / "w")
    play.until("round-000/initialise")
    play.forge(keys.statistics("site-b"), change)
    execute(play.plan.step("round-000/initialise"), play.context)
    model = decode(play.context.store.get(play.context.key(keys.model(0))), kind="model")
    assert list(model.meta["parents"]) == ["site-a"]


def test_the_record_of_a_round_repeats_nothing_of_a_liar(play: Round) -> None:
    planted = "Zyxwvcanary"
    play.forge(keys.update(2, "site-b"), _meta(dataset=planted, receipt={"private": planted}))
    assert planted not in json.dumps(play.outcome("round-002/aggregate"))
