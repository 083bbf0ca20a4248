"""What a coordinator's step takes from the sites: one task's artefacts, sorted, up to the quorum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.contract import Contract
from folkmoot.errors import ProtocolError, RoundError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import Roster, public_text
from folkmoot.params import Privacy, parse_params
from folkmoot.plan import COORDINATOR, RunContext, Step, keys
from folkmoot.updates import LinearUpdate
from pipelines.coordinator.collect import collect, open_early
from site_tasks.privatise import privatise
from site_tasks.seal import seal

SITES = ("site-a", "site-b", "site-c")
KEYS = {site: Ed25519PrivateKey.generate() for site in SITES}
TASKS = ("upload", "unmask")


def key(task: str, site: str) -> str:
    return f"round-002/{task}-{site}"


def step(quorum: int | None = 2) -> Step:
    """A step that follows two tasks of every site, in no order, and one of the coordinator."""
    after = [f"round-002/{task}/{site}" for task in TASKS for site in reversed(SITES)]
    return Step(
        "round-002/aggregate",
        "coordinator.aggregate",
        COORDINATOR,
        2,
        ("round-002/survivors", *after),
        quorum=quorum,
    )


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    contract = Contract.model_validate(
        {
            "name": "c",
            "task": "regression",
            "columns": [
                {"name": "x", "bounds": [0.0, 1.0]},
                {"name": "y", "role": "label", "bounds": [0.0, 1.0]},
            ],
        }
    )
    params = parse_params({"federation": {"sites": list(SITES)}})
    roster = Roster({site: public_text(key) for site, key in KEYS.items()})
    return RunContext("r", params, contract, roster, ExchangeStore(tmp_path), tmp_path)


def publish(
    context: RunContext, task: str, site: str, header: dict[str, Any] | None = None
) -> None:
    parts = privatise({"update": LinearUpdate({"delta": np.ones((1, 2))}, 1.0)}, Privacy())
    meta = {
        "federation": "demo",
        "run": "r",
        "round": 2,
        "site": site,
        "step": f"round-002/{task}/{site}",
        "receipt": {},
        **(header or {}),
    }
    context.store.put(context.key(key(task, site)), seal(meta, parts, KEYS[site]))


def collected(context: RunContext, task: str, quorum: int | None = 2) -> Any:
    return collect(step(quorum), context, task, lambda site: key(task, site))


def test_each_task_is_collected_apart_and_by_name(context: RunContext) -> None:
    for site in SITES:
        publish(context, "upload", site)
    publish(context, "unmask", "site-c")
    publish(context, "unmask", "site-a")
    found = collected(context, "upload", None)
    assert [update.site for update in found.updates] == list(SITES)
    assert found.missing == {}
    found = collected(context, "unmask")
    assert [update.site for update in found.updates] == ["site-a", "site-c"]
    assert found.missing == {"site-b": "protocol.missing"}
    with pytest.raises(RoundError) as caught:
        collected(context, "unmask", None)
    assert caught.value.code == "round.quorum"
    assert "2 of 3 sites contributed, 3 are required; missing: site-b" in caught.value.message


@pytest.mark.parametrize(
    "header",
    [
        {"step": "round-002/upload/site-b"},
        {"round": 1},
        {"run": "another"},
        {"federation": "another"},
        {"site": "site-a"},
    ],
)
def test_a_replayed_artefact_counts_as_missing(context: RunContext, header: dict[str, Any]) -> None:
    for site in ("site-a", "site-c"):
        publish(context, "unmask", site)
    publish(context, "unmask", "site-b", header)
    assert collected(context, "unmask").missing == {"site-b": "protocol.mismatch"}
    with pytest.raises(ProtocolError) as caught:
        collected(context, "unmask", 3)
    assert (caught.value.code, caught.value.site) == ("protocol.mismatch", "site-b")


def test_what_was_opened_early_is_held_to_the_same_and_opened_once(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(context, "upload", "site-a")
    publish(context, "upload", "site-b", {"round": 1})  # a replay
    for site in SITES:  # site-c has published nothing yet
        place = key("upload", site)
        open_early(Step(f"round-002/upload/{site}", "", site, 2, outputs=(place,)), context)
    publish(context, "upload", "site-c")
    read: list[str] = []
    find = ExchangeStore.find
    monkeypatch.setattr(ExchangeStore, "find", lambda s, k: read.append(k) or find(s, k))
    found = collected(context, "upload")
    assert [update.site for update in found.updates] == ["site-a", "site-c"]
    assert found.missing == {"site-b": "protocol.mismatch"}
    assert read == [context.key(key("upload", "site-c"))]
    assert collected(context, "upload").missing == found.missing
    assert len(read) == 4, "another collection reads for itself"


def test_the_sites_of_a_plan_answer_its_own_steps(context: RunContext) -> None:
    """The task of every coordinator's step is one that its plan has."""
    from pipelines.plans import plan_of

    plan = plan_of(context.params, context.contract)
    tasks = {"round-000/initialise": "encode", "round-001/aggregate": "train"}
    for name, task in {**tasks, "final/conclude": "evaluate"}.items():
        for task_of_it in ("nothing", task):
            with pytest.raises(RoundError) as caught:
                collect(plan.step(name), context, task_of_it, keys.statistics)
            expected = "3" if task_of_it == task else "0"
            assert f"0 of {expected} sites" in caught.value.message
