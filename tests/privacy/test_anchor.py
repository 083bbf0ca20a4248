"""Copies and older states of a whole site folder, found out by what the coordinator countersigned."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import PrivacyError, ProtocolError
from folkmoot.identity import public_text
from folkmoot.params import Params, parse_params
from folkmoot.privacy.ledger import Ledger, anchor
from pipelines.coordinator.anchors import known
from pipelines.hosts.embedded import run
from site_tasks.home import SiteHome

SITE = "site-a"


def settings(*overrides: str) -> Params:
    return parse_params(
        {
            "data": {"recipe": "breast_cancer", "scaling": "bounds"},
            "model": {"linear": {"strategy": "fedavg", "rounds": 2}},
            "privacy": {"mechanism": "gaussian", "noise_multiplier": 1.0},
            "aggregation": {"weighting": "uniform"},
            "tracking": {"enabled": False},
        },
        overrides,
    )


@pytest.fixture
def workspace(workspace_of: Callable[..., Path]) -> Path:
    made = workspace_of(settings())
    run(settings(), run="one", workspace=made)
    return made


def ledger(workspace: Path) -> Ledger:
    home = SiteHome.find(SITE, workspace)
    return Ledger(home.ledger_path, SITE)


def test_the_coordinator_knows_the_head_of_every_ledger(workspace: Path) -> None:
    anchors = known(workspace, "demo")
    assert set(anchors) == set(settings().federation.members)
    own = ledger(workspace)
    assert own.holds(*anchors[SITE])
    # Statistics and two rounds are two reservations and three commits; evaluation came after.
    assert anchors[SITE][0] == 5
    assert own.head()[0] == 6


def test_under_masks_too(workspace_of: Callable[..., Path]) -> None:
    """Where the sum is opened after what sites release, their heads are countersigned all the same."""
    params = settings("privacy.mechanism=none", "aggregation.protection=masks")
    made = workspace_of(params)
    run(params, run="masked", workspace=made)
    anchors = known(made, "demo")
    assert set(anchors) == set(params.federation.members)
    assert ledger(made).holds(*anchors[SITE])


def test_an_older_state_of_the_whole_folder_releases_nothing(
    workspace: Path, tmp_path: Path
) -> None:
    """Ledger, note and releases together: nothing at the site itself can tell."""
    private = SiteHome.find(SITE, workspace).private
    before = tmp_path / "before"
    shutil.copytree(private, before)
    run(settings(), run="two", workspace=workspace)
    shutil.rmtree(private)
    shutil.copytree(before, private)
    assert ledger(workspace).verify() == 7  # the older state holds in itself
    with pytest.raises(PrivacyError, match="rewound or copied") as caught:
        run(settings(), run="three", workspace=workspace)
    assert (caught.value.code, caught.value.site) == ("privacy.ledger", SITE)
    assert ledger(workspace).verify() == 7


def test_an_older_state_between_two_rounds_is_found_in_the_next(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.hosts import embedded

    private, before = SiteHome.find(SITE, workspace).private, tmp_path / "before"
    shutil.copytree(private, before)
    real = embedded.record

    def put_back(context: Any, round: int) -> Any:
        found = real(context, round)
        if found is None and round == 2:  # round 1 is closed, round 2 not yet begun
            shutil.rmtree(private)
            shutil.copytree(before, private)
            context.cache.clear()
        return found

    monkeypatch.setattr(embedded, "record", put_back)
    with pytest.raises(PrivacyError, match="rewound or copied"):
        run(settings(), run="two", workspace=workspace)
    assert ledger(workspace).verify() == 7


def test_two_copies_that_go_on_side_by_side_are_told_apart(workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(SiteHome.find(SITE, workspace).private, other)
    run(settings(), run="two", workspace=workspace)
    shutil.rmtree(SiteHome.find(SITE, workspace).private)
    shutil.copytree(other, SiteHome.find(SITE, workspace).private)
    shutil.rmtree(workspace / "exchange")  # where nothing comes back, nobody can tell …
    shutil.move(workspace / "coordinator" / "demo", tmp_path / "coordinator")
    run(settings(), run="fork", workspace=workspace)
    shutil.rmtree(workspace / "coordinator" / "demo")
    shutil.move(tmp_path / "coordinator", workspace / "coordinator" / "demo")
    with pytest.raises(PrivacyError, match="rewound or copied"):  # … until it does
        run(settings(), run="three", workspace=workspace)


def test_a_forged_head_or_anchor_is_not_taken(workspace: Path) -> None:
    own = ledger(workspace)
    head = own.signed_head()
    data = anchor.to_bytes(SITE, head)
    key = SiteHome.find(SITE, workspace).key().public_key()
    assert anchor.open_head(data, SITE, key) == head
    other = Ed25519PrivateKey.generate()
    bad: list[Any] = [
        (data, "site-b", key),
        (data, SITE, other.public_key()),
        (anchor.to_bytes(SITE, replace(head, seq=head.seq + 1)), SITE, key),
        (b"[]", SITE, key),
    ]
    for arguments in bad:
        with pytest.raises(ProtocolError):
            anchor.open_head(*arguments)
    bound = {"federation": "demo", "run": "one", "round": 1}
    signed = anchor.countersign({SITE: (1, "c")}, **bound, key=other)  # type: ignore[arg-type]
    public = public_text(other)
    assert anchor.open_anchors(signed, **bound, key=public) == {SITE: (1, "c")}  # type: ignore[arg-type]
    for changes in ({"run": "two"}, {"round": 2}, {"key": "0" * 64}, {"key": "x"}):
        with pytest.raises(ProtocolError):
            anchor.open_anchors(signed, **{**bound, "key": public, **changes})  # type: ignore[arg-type]


def test_verify_looks_at_the_anchors(workspace: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from folkmoot.cli.ledger import app

    def verify() -> Any:
        return CliRunner().invoke(app, ["verify", SITE, "--workspace", str(workspace)])

    private = SiteHome.find(SITE, workspace).private
    shutil.copytree(private, tmp_path / "before")
    run(settings(), run="two", workspace=workspace)
    assert "1 anchors hold" in verify().stdout
    shutil.rmtree(private)
    shutil.copytree(tmp_path / "before", private)
    error = verify().exception
    assert isinstance(error, PrivacyError)
    assert "rewound or copied" in error.message
