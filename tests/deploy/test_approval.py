"""What the approval tasks ask, remember and let pass, without the waiting between."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from folkmoot.contract import load_contract
from folkmoot.identity import Roster
from folkmoot.params import parse_params
from pipelines.hosts.airflow_project import Project

CONTRACT = Path(__file__).resolve().parents[2] / "folkmoot" / "contracts" / "heart.yaml"


@dataclass
class Run:
    """As much of a run as is asked."""

    workspace: Path
    params: Any
    federation: str = "demo"
    run: str = "r"
    roster: Roster = field(default_factory=lambda: Roster({"site-a": "1" * 64, "site-b": "2" * 64}))
    contract: Any = field(default_factory=lambda: load_contract(CONTRACT))


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from pipelines.hosts import airflow_approval as approval

    params = parse_params(
        {"federation": {"sites": ["site-a", "site-b"]}, "approval": {"approvers": ["alice"]}}
    )
    (tmp_path / "coordinator").mkdir()
    run = Run(tmp_path, params)
    project = Project(tmp_path, params)
    monkeypatch.setattr(approval._Ask, "opened", lambda self, context: run)
    monkeypatch.setattr(approval.ApprovalOperator, "execute_complete", lambda self, **_: None)

    def make(kind: str, **arguments: Any) -> Any:
        return getattr(approval, kind)(task_id="t", project=project, **arguments)

    return make, run


def event(*chosen: str, timedout: bool = False) -> dict[str, Any]:
    user = None if timedout else {"id": "1", "name": "alice"}
    return {"chosen_options": list(chosen), "timedout": timedout, "responded_by_user": user}


def test_a_yes_is_remembered_for_this_site_key_and_contract(asking: Any) -> None:
    make, run = asking
    task = make("AskConsent", site="site-a")
    assert [dict(user)["id"] for user in task.assigned_users] == ["alice"]
    body = task.asked(run)
    digest = run.contract.digest()
    assert f"folkmoot site consent site-a demo --contract {digest}" in body
    task.execute_complete({}, event("Reject"))
    task.execute_complete({}, event("Reject", timedout=True))
    assert task.asked(run) is not None, "a no is asked again"
    assert task.execute_complete({}, event("Approve")) == {"approved": True}
    assert task.asked(run) is None
    assert make("AskConsent", site="site-b").asked(run) is not None
    run.roster = Roster({"site-a": "3" * 64})
    assert task.asked(run) is not None, "the same name with another key is another site"


def test_silence_decides_nothing_about_a_champion(
    asking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import conclusion
    from pipelines.coordinator.registry import WAITS

    make, run = asking
    decided: list[tuple[bool, str]] = []

    def decide(context: Any, approved: bool, by: str) -> dict[str, Any]:
        decided.append((approved, by))
        return {"name": "demo-linear", "version": 1, "reason": "as asked"}

    monkeypatch.setattr(conclusion, "decide", decide)
    monkeypatch.setattr(conclusion, "run_folder", lambda context: run.workspace)
    task = make("ApproveChampion")
    assert task.asked(run) is None, "nothing was registered"
    registered = {"name": "demo-linear", "version": 1, "reason": "auc 1 does not beat 2"}
    (run.workspace / "registered.json").write_text(json.dumps(registered))
    assert task.asked(run) is None, "the verdict leaves nothing to decide"
    registered["reason"] = f"{WAITS}auc 2 beats 1"
    (run.workspace / "registered.json").write_text(json.dumps(registered))
    monkeypatch.setattr(
        "pipelines.coordinator.open_round.load_json",
        lambda run, key: {"metrics": {"overall": {"auc": 0.25, "counts": {}}}},
    )
    body = task.asked(run)
    assert "Auc 2 beats 1." in body
    assert "| auc | 0.25 |" in body
    task.execute_complete({}, event("Reject", timedout=True))
    assert decided == []
    task.execute_complete({}, event("Approve"))
    task.execute_complete({}, event("Reject"))
    assert decided == [(True, "alice"), (False, "alice")]
