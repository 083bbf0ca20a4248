"""Plans are whole and acyclic; the lock lets one run at a time into a federation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from folkmoot.contract import Contract
from folkmoot.errors import ConfigError, ProtocolError, RoundError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import Roster
from folkmoot.params import parse_params
from folkmoot.plan import COORDINATOR, Step, keys
from folkmoot.sections import parse
from pipelines.coordinator import lock
from pipelines.coordinator.open_round import open_run, run_name
from pipelines.hosts.execute import BODIES
from pipelines.hosts.walk import ending
from pipelines.plans import plan_of

CONTRACT = parse(
    Contract,
    {
        "name": "c",
        "task": "binary",
        "columns": [
            {"name": "x", "bounds": [0.0, 1.0]},
            {
                "name": "age",
                "role": "quasi_identifier",
                "bounds": [0.0, 100.0],
                "hierarchy": {"widths": [10.0, 50.0]},
            },
            {"name": "y", "role": "label", "type": "category", "categories": ["no", "yes"]},
        ],
    },
    source="contract",
)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["federation.quorum=2"],
        ["model.kind=trees"],
        ["model.kind=trees", "model.trees.strategy=cyclic"],
        ["federation.sites=[only]"],
    ],
)
def test_every_step_follows_what_it_needs(overrides: list[str]) -> None:
    plan = plan_of(parse_params({}, overrides), CONTRACT)
    seen: set[str] = set()
    published: set[str] = set()
    for step in plan:
        assert step.name not in seen
        assert set(step.after) <= seen
        assert set(step.inputs) <= published
        assert not set(step.outputs) & published
        assert step.body in BODIES
        assert step.place in {COORDINATOR, *plan.sites}
        assert Step.from_dict(step.to_dict()) == step
        seen.add(step.name)
        published |= set(step.outputs)
    assert plan.steps[-1].name == "final/conclude"
    assert plan.digest() == plan_of(parse_params({}, overrides), CONTRACT).digest()


def test_cyclic_rounds_belong_to_one_site_each() -> None:
    plan = plan_of(parse_params({}, ["model.kind=trees", "model.trees.strategy=cyclic"]), CONTRACT)
    trained = [step.place for step in plan if "/train/" in step.name][:5]
    assert trained == ["site-a", "site-b", "site-c", "site-d", "site-a"]


def test_the_ending_is_bound_to_the_last_round() -> None:
    plan = plan_of(parse_params({}), CONTRACT)
    step = ending(plan.step("final/evaluate/site-a"), 3)
    assert (step.round, step.inputs) == (3, ("round-003/model",))


def test_levels_must_exist_in_the_contract() -> None:
    plan_of(parse_params({"anonymisation": {"levels": {"age": 2}}}), CONTRACT)
    for levels, word in [({"age": 3}, "ends at level 2"), ({"x": 1}, "no quasi-identifier")]:
        with pytest.raises(ConfigError, match=word):
            plan_of(parse_params({"anonymisation": {"levels": levels}}), CONTRACT)


def test_a_run_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path / "exchange")
    roster = Roster(dict.fromkeys(parse_params({}).federation.members, "0" * 64))

    def opened(*overrides: str, keys: Roster = roster) -> None:
        open_run(parse_params({}, overrides), CONTRACT, keys, "one", store, tmp_path)

    opened()
    opened()
    with pytest.raises(ProtocolError, match=r"settings: model\.linear\.rounds, tracking\.uri\."):
        opened("model.linear.rounds=9", "tracking.uri=http://127.0.0.1:9")
    changed = Roster({**roster.keys, "site-a": "1" * 64})
    with pytest.raises(ProtocolError, match=r"settings: roster\."):
        opened(keys=changed)


def test_an_unfinished_run_is_resumed_unless_contract_or_roster_changed(tmp_path: Path) -> None:
    store, params = ExchangeStore(tmp_path / "exchange"), parse_params({})
    roster = Roster(dict.fromkeys(params.federation.members, "0" * 64))
    first = run_name(params, CONTRACT, roster, store)
    context = open_run(params, CONTRACT, roster, first, store, tmp_path)
    store.put(f"demo/runs/{first[:-1]}mine/run.json", b"{}")  # a name of the user's own
    assert run_name(params, CONTRACT, roster, store) == first
    second = first.removesuffix("1") + "2"
    mended = CONTRACT.model_copy(update={"version": 2})
    assert run_name(params, mended, roster, store) == second
    replaced = Roster({**roster.keys, "site-a": "1" * 64})
    assert run_name(params, CONTRACT, replaced, store) == second
    beside = Roster({**roster.keys, "elsewhere": "1" * 64})
    assert run_name(params, CONTRACT, beside, store) == first
    store.put(context.key(keys.RESULT), b"{}")
    assert run_name(params, CONTRACT, roster, store) == second


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    lock.acquire(tmp_path, "demo", "one", "embedded", 60)
    with pytest.raises(RoundError) as caught:
        lock.acquire(tmp_path, "demo", "two", "embedded", 60)
    assert caught.value.code == "round.busy"
    assert "one" in caught.value.message
    lock.acquire(tmp_path, "other", "two", "embedded", 60)
    lock.acquire(tmp_path, "demo", "one", "embedded", 60)
    lock.release(tmp_path, "demo", "two")
    with pytest.raises(RoundError):
        lock.acquire(tmp_path, "demo", "two", "embedded", 60)
    lock.release(tmp_path, "demo", "one")
    lock.acquire(tmp_path, "demo", "two", "embedded", 60)


def test_a_dead_process_keeps_no_lock(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from pipelines.coordinator import lock; import os;"
        f"lock.acquire(Path({str(tmp_path)!r}), 'demo', 'one', 'embedded', 60); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert (tmp_path / "coordinator" / "demo" / "active.json").exists()
    lock.acquire(tmp_path, "demo", "two", "embedded", 60)


def test_the_same_run_in_two_processes_is_refused(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from pipelines.coordinator import lock; import sys;"
        f"lock.acquire(Path({str(tmp_path)!r}), 'demo', 'one', 'embedded', 60);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RoundError, match="already being carried out"):
            lock.acquire(tmp_path, "demo", "one", "embedded", 60)


def test_an_airflow_run_that_gives_no_sign_of_life_is_abandoned(tmp_path: Path) -> None:
    lock.acquire(tmp_path, "demo", "one", "airflow", 60)
    with pytest.raises(RoundError):
        lock.acquire(tmp_path, "demo", "two", "embedded", 60)
    long_ago = time.time() - 120
    os.utime(tmp_path / "coordinator" / "demo" / "active.json", (long_ago, long_ago))
    lock.acquire(tmp_path, "demo", "two", "embedded", 60)


def test_a_process_id_that_was_given_away_keeps_no_lock(tmp_path: Path) -> None:
    """Process titles may change (Airflow, test runners); the time of birth does not."""
    lock.acquire(tmp_path, "demo", "one", "embedded", 60)
    active = tmp_path / "coordinator" / "demo" / "active.json"
    kept = json.loads(active.read_text())
    if kept["born"] is None:
        pytest.skip("this system has no /proc/PID/stat")
    active.write_text(json.dumps({**kept, "born": "1"}))
    lock.acquire(tmp_path, "demo", "two", "embedded", 60)
