"""Commands of a coordinator whose params.yaml lies in another folder, as in a container."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from folkmoot.cli.app import app
from folkmoot.errors import ConfigError
from folkmoot.identity import public_text
from pipelines.guard.sites import Member, Sites
from pipelines.hosts.server_settings import load_settings


def run(*arguments: str) -> str:
    ended = CliRunner().invoke(app, ["coordinator", *arguments])
    if ended.exception is not None:
        raise ended.exception
    return ended.output


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The federation's settings in a folder of their own, which no command is started in."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = tmp_path / "etc" / "params.yaml"
    workspace = tmp_path / "state"
    file.write_text(
        f"federation: {{sites: [clinic-a, clinic-b, clinic-c], workspace: {workspace}}}\n"
    )
    load_settings(workspace)
    return str(file)


def test_sites_are_invited_by_the_params_that_are_named(params: str) -> None:
    assert run("invite", "clinic-b", "--params", params).startswith("folkmoot-join-1.")
    with pytest.raises(ConfigError, match=f"federation.sites of {params} does not name clinic-z"):
        run("invite", "clinic-z", "--params", params)
    with pytest.raises(ConfigError, match=r"params\.yaml does not name clinic-b"):
        run("invite", "clinic-b")


def test_the_members_are_those_of_the_params_that_are_named(params: str, tmp_path: Path) -> None:
    members = Sites(tmp_path / "state" / "coordinator" / "guard" / "sites.json")
    key = public_text(Ed25519PrivateKey.generate())
    members.add("clinic-b", Member(key))
    assert run("sites", "--params", params) == f"clinic-b  {key}\n"
    assert run("sites") == "", "another workspace"
    run("logs", "clinic-b", "--allow", "--params", params)
    assert members.members["clinic-b"].logs
    assert "shut out" in run("revoke", "clinic-b", "--params", params)
    assert members.members == {}
