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
from folkmoot.errors import FolkmootError, PrivacyError
from folkmoot.exchange import ExchangeStore
from folkmoot.params import parse_params
from pipelines.coordinator.open_round import open_run
from pipelines.hosts.execute import execute
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of
from site_tasks import consent
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
