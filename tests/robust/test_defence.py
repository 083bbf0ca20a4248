"""Hostile sites in whole embedded runs: robust rules, the gate, suspicion and quarantine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from folkmoot.cli.app import app
from folkmoot.errors import ConfigError
from folkmoot.models.linear import parameters
from folkmoot.params import Params, parse_params
from folkmoot.plan import keys
from folkmoot.secure.groups import groups_of
from folkmoot.wire import decode
from pipelines.audit.attacks import hostile
from pipelines.hosts.embedded import run
from site_tasks.home import SiteHome
from site_tasks.settings import save_settings

SITES = ["site-a", "site-b", "site-c", "site-d", "site-e"]
ROBUST = ["aggregation.defence.mode=robust"]
CLIP = ["privacy.mechanism=clip", "privacy.clip_norm=0.3"]


def params_of(*settings: str) -> Params:
    return parse_params(
        {"federation": {"name": "attacked", "sites": SITES}, "tracking": {"enabled": False}},
        [
            "model.linear.strategy=fedavg",
            "model.linear.rounds=5",
            "model.linear.early_stopping.tolerance=0.0",
            *settings,
        ],
    )


Workspace = Callable[..., Path]


def records(workspace: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    folder = workspace / "exchange" / "attacked" / "runs" / result["run"]
    return [
        json.loads((folder / keys.record(r)).read_bytes()) for r in range(1, result["rounds"] + 1)
    ]


@pytest.mark.parametrize("rule", ["nearest_neighbour_mixing", "median", "geometric_median"])
def test_a_robust_rule_keeps_what_the_mean_loses(rule: str, workspace_of: Workspace) -> None:
    workspace = workspace_of(params_of())
    robust = params_of("aggregation.defence.mode=robust", f"aggregation.defence.rule={rule}")
    with hostile(["site-e"], "scaling"):
        lost = run(params_of(), workspace=workspace)
        kept = run(robust, workspace=workspace)
    assert lost["metrics"]["overall"]["auc"] < 0.6
    assert kept["metrics"]["overall"]["auc"] > 0.95


def test_a_suspicious_site_is_named_then_quarantined(workspace_of: Workspace) -> None:
    params = params_of("aggregation.defence.mode=robust", "aggregation.defence.quarantine_after=2")
    workspace = workspace_of(params)
    with hostile(["site-e"], "scaling"):
        result = run(params, workspace=workspace)
    standing = [record["defence"]["standing"] for record in records(workspace, result)]
    assert [entry["site-e"]["suspicious"] for entry in standing] == [1, 2, 3, 4, 5]
    assert [entry["site-e"]["quarantined"] for entry in standing] == [False, True, True, True, True]
    assert all(entry["site-e"]["distance"] > 3 for entry in standing), "its steward sees why"
    honest = [entry[site] for entry in standing for site in SITES[:-1]]
    assert not any(entry["quarantined"] for entry in honest)
    command = ["site", "standing", "site-e", "--run", result["run"], "--workspace", str(workspace)]
    shown = CliRunner().invoke(app, [*command, "--set", "federation.name=attacked"])
    assert shown.output.count("quarantined") == 4


def test_the_gate_takes_back_a_round_that_harms(workspace_of: Workspace) -> None:
    """A bound too wide for its honest updates lets the attack through; the gate does not."""
    wide = ["privacy.mechanism=clip", "privacy.clip_norm=20.0"]
    open_, gated = params_of(*wide), params_of("aggregation.defence.mode=private", *wide)
    workspace = workspace_of(gated)
    with hostile(["site-e"], "scaling"):
        harmed = run(open_, workspace=workspace)
        result = run(gated, workspace=workspace)
    found = [record["defence"] for record in records(workspace, result)]
    assert any(entry.get("taken_back") for entry in found)
    loss = result["metrics"]["overall"]["log_loss"]
    assert loss <= 0.7, "never worse than the model that knows nothing"
    assert loss < harmed["metrics"]["overall"]["log_loss"]


def test_a_last_round_that_harms_is_taken_back_at_the_end(workspace_of: Workspace) -> None:
    from pipelines.audit import attacks

    params = params_of(
        "aggregation.defence.mode=private", "privacy.mechanism=clip", "privacy.clip_norm=20.0"
    )
    workspace = workspace_of(params)
    sleeper = attacks.ATTACKS["scaling"]

    def last_only(view: Any) -> Any:
        return sleeper(view) if view.step.round == 5 else view.own()

    attacks.ATTACKS["sleeper"] = last_only
    try:
        with hostile(["site-e"], "sleeper"):
            result = run(params, workspace=workspace)
    finally:
        del attacks.ATTACKS["sleeper"]
    assert result["rounds"] == 5
    assert result["model"] == keys.model(4)
    assert result["metrics"]["overall"]["auc"] > 0.95
    folder = workspace / "exchange" / "attacked" / "runs" / result["run"]
    accepted = (folder / keys.model(4)).read_bytes()
    import hashlib

    assert result["model_digest"] == hashlib.sha256(accepted).hexdigest()


def test_honest_sites_are_never_taken_back(workspace_of: Workspace) -> None:
    params = params_of("aggregation.defence.mode=private", *CLIP)
    workspace = workspace_of(params)
    result = run(params, workspace=workspace)
    assert [record["defence"]["taken_back"] for record in records(workspace, result)] == [None] * 5
    assert result["model"] == keys.model(5)
    assert result["metrics"]["overall"]["auc"] > 0.95


def test_an_update_above_the_clip_norm_is_left_out(
    workspace_of: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site whose code forgets to clip: its update is visible, so the bound is checked again."""
    from site_tasks import privatise

    params = params_of(*CLIP, "federation.quorum=4")
    workspace = workspace_of(params)
    real, seen = privatise._clipped, []

    def forgetful(part: Any, norm: float) -> Any:
        seen.append(part)
        return part if len(seen) % len(SITES) == 0 else real(part, norm)

    monkeypatch.setattr(privatise, "_clipped", forgetful)
    with hostile(["site-e"], "scaling"):
        result = run(params, workspace=workspace)
    found = records(workspace, result)
    assert all(record["missing"] == {"site-e": "protocol.mismatch"} for record in found)


def test_a_claim_of_rows_buys_no_more_than_the_limit(
    workspace_of: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that says it has a million rows would be the whole mean."""
    from site_tasks import train_linear

    private = ["aggregation.defence.mode=private", *CLIP, "model.linear.rounds=1"]
    open_ = params_of(*private, "federation.quorum=4")
    limited = params_of(*private, "federation.quorum=4", "aggregation.defence.weight_limit=40")
    workspace = workspace_of(open_)
    (record,) = records(workspace, run(limited, workspace=workspace))
    assert record["participants"] == dict.fromkeys(SITES, 40.0)

    real, seen = train_linear._weight, []

    def claims(context: Any, rows: Any) -> float:
        seen.append(rows)
        return 1e6 if len(seen) % len(SITES) == 0 else real(context, rows)

    monkeypatch.setattr(train_linear, "_weight", claims)
    (taken,) = records(workspace, run(open_, workspace=workspace))
    assert taken["participants"]["site-e"] == 1e6
    again = params_of(*private, "federation.quorum=4", "aggregation.defence.weight_limit=39")
    (record,) = records(workspace, run(again, workspace=workspace))
    assert record["missing"] == {"site-e": "protocol.mismatch"}


def test_a_mean_under_masks_is_no_longer_than_clipped_updates_make_it(
    workspace_of: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sees that a site did not clip; what it adds to a round is bounded all the same."""
    from site_tasks import privatise

    params = params_of(
        "aggregation.protection=masks",
        "aggregation.weighting=uniform",
        "privacy.mechanism=clip",
        "privacy.clip_norm=0.01",
        "model.linear.rounds=1",
    )
    workspace = workspace_of(params)
    real, seen = privatise._clipped, []

    def forgetful(part: Any, norm: float) -> Any:
        seen.append(part)
        last = len(seen) % len(SITES) == 0
        return part if last else real(part, norm)

    monkeypatch.setattr(privatise, "_clipped", forgetful)
    result = run(params, workspace=workspace)
    folder = workspace / "exchange" / "attacked" / "runs" / result["run"]
    model = parameters(decode((folder / keys.model(1)).read_bytes(), kind="model"))
    assert 0.005 < np.linalg.norm(model) <= 0.01 * (1 + 1e-3)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["model.linear.strategy=newton", "aggregation.defence.mode=robust"], "strategy"),
        (["aggregation.defence.mode=private"], "clip"),
        ([*ROBUST, "aggregation.defence.weight_limit=50"], "weight_limit"),
        (["aggregation.defence.mode=robust", "aggregation.evaluate_every=0"], "evaluate_every"),
        (["aggregation.defence.mode=robust", "aggregation.defence.hostile=3"], "bears 2"),
        (
            ["aggregation.defence.rule=multi_krum", "aggregation.defence.hostile=2", *ROBUST],
            "bears 1",
        ),
        (["aggregation.defence.mode=robust", "aggregation.defence.rule=fltrust"], "trusted_site"),
        (
            [
                "aggregation.defence.mode=robust",
                "aggregation.defence.rule=fltrust",
                "aggregation.defence.trusted_site=nobody",
            ],
            "no site",
        ),
    ],
)
def test_a_defence_that_cannot_hold_is_refused(settings: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        params_of(*settings)


GROUPED = [
    "aggregation.defence.mode=grouped",
    "aggregation.defence.groups=3",
    "aggregation.defence.group_minimum=2",
    "aggregation.defence.rule=median",
    "aggregation.protection=masks",
]


def test_a_robust_rule_compares_masked_sums_of_groups(workspace_of: Workspace) -> None:
    """The coordinator sees no single update, and one hostile site spoils its group alone."""
    six = [*SITES, "site-f"]
    params = params_of(*GROUPED, f"federation.sites=[{','.join(six)}]", "model.linear.rounds=3")
    workspace = workspace_of(params)
    for site in six:
        home = SiteHome.find(site, workspace)
        allowed = home.settings.permissions.model_copy(update={"minimum_contributors": 2})
        changed = home.settings.model_copy(update={"permissions": allowed})
        save_settings(changed, home.root / "site.toml")
    with hostile(["site-f"], "scaling"):
        result = run(params, workspace=workspace)
    assert result["metrics"]["overall"]["auc"] > 0.95
    assert result["metrics"]["sites"] == {}
    for record in records(workspace, result):
        groups = record["secure"]["groups"]
        assert sorted(s for own in groups.values() for s in own) == six
        assert [len(own) for own in groups.values()] == [2, 2, 2]
        spoiled = next(name for name, own in groups.items() if "site-f" in own)
        standing = record["defence"]["standing"]
        assert standing.keys() == groups.keys(), "groups are named, never sites"
        assert [name for name, e in standing.items() if e["distance"] > 3] == [spoiled]
        assert "sum of every group" in record["defence"]["trade"]
    command = ["site", "standing", "site-f", "--run", result["run"], "--workspace", str(workspace)]
    shown = CliRunner().invoke(app, [*command, "--set", "federation.name=attacked"])
    assert shown.exit_code == 0, shown.output

    # A site that sums with three at least opens no group of two.
    home = SiteHome.find("site-a", workspace)
    allowed = home.settings.permissions.model_copy(update={"minimum_contributors": 3})
    save_settings(
        home.settings.model_copy(update={"permissions": allowed}), home.root / "site.toml"
    )
    sites = f"federation.sites=[{','.join(six)}]"
    again = params_of(*GROUPED, sites, "model.linear.rounds=1", "federation.quorum=5")
    (record,) = records(workspace, run(again, workspace=workspace))
    assert record["secure"]["silent"] == ["site-a"]


@pytest.mark.parametrize(
    "settings",
    [
        ["aggregation.defence.groups=null"],
        ["aggregation.defence.hostile=2"],
        ["aggregation.defence.rule=multi_krum"],
        ["aggregation.defence.rule=fltrust", "aggregation.defence.trusted_site=site-a"],
        ["aggregation.defence.group_minimum=3"],
        ["aggregation.protection=none"],
        ["aggregation.protection=ckks"],
        ["aggregation.colluding=0.1", "aggregation.failing=0.1"],
        ["aggregation.defence.mode=robust"],
    ],
)
def test_groups_that_could_not_be_outvoted_are_not_offered(settings: list[str]) -> None:
    six = f"federation.sites=[{','.join([*SITES, 'site-f'])}]"
    assert params_of(six, *GROUPED)
    with pytest.raises(ConfigError):
        params_of(six, *GROUPED, *settings)


def test_groups_follow_the_key_list_and_are_even() -> None:
    names = [f"s{i}" for i in range(10)]
    one, other = (groups_of(digest, names, 3) for digest in ("a" * 64, "b" * 64))
    assert sorted(len(group) for group in one) == [3, 3, 4]
    assert sorted(s for group in one for s in group) == sorted(names)
    assert one == groups_of("a" * 64, list(reversed(names)), 3)
    assert one != other
