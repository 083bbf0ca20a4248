"""Rounds of any shape: several tasks per site and round, and coordinator's steps between them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from folkmoot.contract import Contract
from folkmoot.errors import ProtocolError, RoundError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import Roster
from folkmoot.params import parse_params
from folkmoot.plan import COORDINATOR, RoundPlan, RunContext, Step, keys
from pipelines.hosts.embedded import Progress, Walk
from pipelines.hosts.execute import BODIES, open_context
from pipelines.hosts.walk import last_round

SITES = ("site-a", "site-b", "site-c")
CONTRACT = Contract.model_validate(
    {
        "name": "c",
        "task": "regression",
        "columns": [
            {"name": "x", "bounds": [0.0, 1.0]},
            {"name": "y", "role": "label", "bounds": [0.0, 1.0]},
        ],
    }
)
BODY = '''
"""Publishes its own name; a step that the store names as broken fails."""
from folkmoot.errors import DataError


def body(step, context):
    if context.store.find(f"broken/{step.name}") is not None:
        raise DataError("data.missing", "No rows.", "Add rows.")
    return [context.store.put(context.key(key), step.name.encode()) for key in step.outputs]
'''


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Walk:
    """A round of two tasks per site: all upload, the coordinator answers, all unmask."""
    (tmp_path / "masked_body.py").write_text(BODY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(BODIES, "test.body", "masked_body:body")
    # These sites are names: they have no folder with permissions.
    monkeypatch.setattr("site_tasks.permissions.admit", lambda context, home: None)
    monkeypatch.setattr("site_tasks.home.SiteHome.find", lambda name, workspace: None)
    one = "round-001/"
    uploads = tuple(f"{one}upload/{site}" for site in SITES)
    unmasks = tuple(f"{one}unmask/{site}" for site in SITES)
    steps = [
        *(Step(n, "test.body", s, 1, (), (), (n,)) for n, s in zip(uploads, SITES, strict=True)),
        Step(f"{one}survivors", "test.body", COORDINATOR, 1, uploads, (), (f"{one}survivors",), 2),
        *(
            Step(n, "test.body", s, 1, (f"{one}survivors",), (), (n,))
            for n, s in zip(unmasks, SITES, strict=True)
        ),
        # A step that follows sites and a step of the coordinator alike.
        Step(
            f"{one}aggregate",
            "test.body",
            COORDINATOR,
            1,
            (f"{one}survivors", *unmasks),
            (),
            (f"{one}model",),
            2,
        ),
    ]
    params = parse_params({"federation": {"sites": list(SITES)}})
    store = ExchangeStore(tmp_path / "exchange")
    context = RunContext("r", params, CONTRACT, Roster({}), store, tmp_path)
    return Walk(RoundPlan("demo", "linear", 1, SITES, tuple(steps)), context, Progress())


def done(walk: Walk) -> set[str]:
    return {
        step.name
        for step in walk.plan
        if all(walk.context.store.ref(walk.context.key(key)) for key in step.outputs)
    }


def test_a_round_of_several_turns(walk: Walk) -> None:
    walk.through(walk.plan.stage("round-001/"))
    assert done(walk) == {step.name for step in walk.plan}


def test_a_site_that_missed_one_task_has_no_part_in_the_next(walk: Walk) -> None:
    walk.context.store.put("broken/round-001/upload/site-b", b"")
    walk.through(walk.plan.stage("round-001/"))
    missed = {"round-001/upload/site-b", "round-001/unmask/site-b"}
    assert done(walk) == {step.name for step in walk.plan} - missed


def test_a_site_lost_between_the_turns_counts_for_the_quorum(walk: Walk) -> None:
    walk.context.store.put("broken/round-001/upload/site-b", b"")
    walk.context.store.put("broken/round-001/unmask/site-c", b"")
    with pytest.raises(RoundError) as caught:
        walk.through(walk.plan.stage("round-001/"))
    assert caught.value.code == "round.quorum"
    assert "1 of 3 sites are left, 2 are required" in caught.value.message
    assert "round-001/survivors" in done(walk)


def test_the_last_round_is_the_last_in_a_row(walk: Walk) -> None:
    """A record behind a gap is of no use: the model before it is missing."""
    params = parse_params({"federation": {"sites": list(SITES)}}, ["model.linear.rounds=4"])
    context = replace(walk.context, params=params)
    assert last_round(context) == 0
    for round, last in ((1, 1), (3, 1), (2, 3), (4, 4)):
        context.store.put(context.key(keys.record(round)), b"{}")
        assert last_round(context) == last


def test_stages_and_steps_of_a_plan(walk: Walk) -> None:
    plan = walk.plan
    assert plan.stage("round-001/unmask/") == plan.steps[4:7]
    assert plan.stage("round-00") == ()
    assert plan.step("round-001/survivors") is plan.steps[3]
    after = plan.site_steps(plan.step("round-001/aggregate").after)
    assert [step.place for step in after] == list(SITES)
    with pytest.raises(KeyError):
        plan.step("round-002/aggregate")


def test_a_run_that_was_not_opened_says_where_to_look(tmp_path: Path) -> None:
    """What follows a first step that failed must not ask for a file that nobody can make."""
    with pytest.raises(ProtocolError, match="Run r of federation demo was not opened") as told:
        open_context("r", "demo", ExchangeStore(tmp_path), tmp_path)
    assert told.value.code == "protocol.missing"
    assert "first step" in told.value.remedy
