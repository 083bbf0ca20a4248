"""The steward's consent is the site's own: nothing leaves without it, whatever anybody clicks."""

from __future__ import annotations

import datetime
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from folkmoot.cli.app import app
from folkmoot.errors import FolkmootError, PrivacyError, ProtocolError
from folkmoot.exchange import ExchangeStore
from folkmoot.findings import Finding
from folkmoot.identity import Roster
from folkmoot.params import parse_params
from pipelines.coordinator.open_round import open_run
from pipelines.health import check_coordinator
from pipelines.hosts.execute import execute
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of
from site_tasks import consent
from site_tasks.health import check_site
from site_tasks.home import SiteHome
from site_tasks.settings import save_settings
from tests.conftest import copy_workspace

SITE = "site-a"
BASE = ["federation.sites=[site-a]", "data.recipe=synthetic", "data.rows=120", "data.columns=4"]


class Trial:
    """One site, and a run that it is asked to prepare for: preparing releases statistics."""

    def __init__(self, workspace: Path, *overrides: str) -> None:
        self.params = parse_params({}, [*BASE, *overrides])
        self.contract = contract_for(self.params)
        store = ExchangeStore(workspace / "exchange")
        self.context = open_run(
            self.params, self.contract, roster_for(workspace), "r", store, workspace
        )
        self.home = SiteHome.find(SITE, workspace)

    def prepare(self) -> None:
        """The site's preparation, in a fresh process's context."""
        for step in plan_of(self.params, self.contract).stage("prepare/"):
            execute(step, replace(self.context, cache={}))

    def left(self) -> list[str]:
        """What the site published."""
        folder = Path(self.context.store.url.removeprefix("file://"))
        return [str(p) for p in folder.rglob(f"*{SITE}*") if p.is_file()]

    def refused(self) -> str:
        with pytest.raises(PrivacyError) as error:
            self.prepare()
        assert error.value.code == "privacy.consent"
        assert self.left() == [], "nothing leaves"
        runs = self.home.work / "runs"
        assert not runs.exists() or not list(runs.iterdir()), "and nothing is looked at"
        return str(error.value)


@pytest.fixture
def workspace(prototype: Any, tmp_path: Path) -> Path:
    return copy_workspace(prototype(parse_params({}, BASE)), tmp_path / "w")


def test_a_plan_that_asks_waits_for_the_stewards_record(workspace: Path) -> None:
    trial = Trial(workspace, "approval.consent=true")
    digest = trial.contract.digest()
    command = f"folkmoot site consent {SITE} demo --contract {digest}"
    assert command in trial.refused(), "the message names what to do"
    # Another contract, another time, a forged record: none of it counts.
    consent.record(trial.home, "demo", "0" * 64)
    assert "another data contract" in trial.refused()
    yesterday = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
    consent.record(trial.home, "demo", digest, until=yesterday)
    assert f"until {yesterday}" in trial.refused()
    consent.record(trial.home, "demo", digest)
    path = consent.consent_file(trial.home, "demo")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(digest.encode(), b"0" * 64))
    with pytest.raises(FolkmootError) as forged:
        trial.prepare()
    assert forged.value.code == "protocol.signature"
    # The real one, by the command; taken back, the next release is refused.
    arguments = ["--workspace", str(workspace)]
    said = CliRunner().invoke(app, [*command.split()[1:], *arguments]).output
    assert f"consents to demo with contract {digest[:12]}" in said
    shown = CliRunner().invoke(app, ["site", "consent", SITE, "demo", *arguments]).output
    assert digest in shown
    trial.prepare()
    assert trial.left()
    CliRunner().invoke(app, ["site", "consent", SITE, "demo", "--withdraw", *arguments])
    assert consent.given(trial.home, "demo") is None


def test_a_site_may_insist_where_the_plan_does_not_ask(workspace: Path) -> None:
    trial = Trial(workspace)
    settings = trial.home.settings
    allowed = settings.permissions.model_copy(update={"consent": True})
    save_settings(
        settings.model_copy(update={"permissions": allowed}), trial.home.root / "site.toml"
    )
    trial.refused()
    shutil.rmtree(trial.home.private / "consents", ignore_errors=True)
    consent.record(SiteHome(trial.home.root), "demo", trial.contract.digest())
    trial.prepare()


def test_consent_is_to_one_coordinator_and_a_permitted_federation(workspace: Path) -> None:
    trial = Trial(workspace, "approval.consent=true")
    with pytest.raises(FolkmootError, match="does not list elsewhere"):
        consent.record(trial.home, "elsewhere", trial.contract.digest())
    values = consent.record(trial.home, "demo", trial.contract.digest())
    assert values["coordinator"] == trial.context.roster.coordinator
    other = replace(
        trial.context, roster=replace(trial.context.roster, coordinator="0" * 64), cache={}
    )
    with pytest.raises(PrivacyError, match="another coordinator's key"):
        consent.check(other, trial.home)


def test_a_plan_that_nobody_signed_is_refused_and_both_doctors_tell_why(workspace: Path) -> None:
    trial = Trial(workspace)
    told = {f.what: f for f in check_site(SITE, workspace)}
    assert f"{SITE}: protocol.signature" not in told
    signature = Path(trial.context.store.url) / trial.context.key("run.json.signature")
    signature.unlink()
    with pytest.raises(ProtocolError) as error:
        trial.prepare()
    assert error.value.code == "protocol.signature"
    assert not (trial.home.work / "runs").exists(), "nothing is looked at"
    told = {f.what: f for f in check_site(SITE, workspace)}
    found = told[f"{SITE}: protocol.signature"]
    assert found.state == "warning"
    assert "r prepare/version/site-a: run.json of run r is not what" in found.detail

    def roster() -> Finding:
        return next(f for f in check_coordinator(trial.params, workspace) if f.what == "roster")

    load_roster = Roster.load(workspace / "roster.toml")
    replace(load_roster, coordinator=trial.context.roster.coordinator).save(
        workspace / "roster.toml"
    )
    assert roster().state == "ok"
    (workspace / "coordinator" / "signing.key").unlink()
    assert roster().state == "fault"
    assert "another coordinator's key" in roster().detail
