"""``folkmoot site``, ``data`` and ``doctor`` as they are typed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from folkmoot.cli import data, doctor, site
from folkmoot.errors import FolkmootError
from folkmoot.identity import Roster
from folkmoot.params import parse_params
from site_tasks import dataset
from site_tasks.git import git
from site_tasks.home import SiteHome

SITES = {"federation": {"sites": ["a", "b"]}, "data": {"recipe": "diabetes"}}
CONTRACT = {
    "name": "own",
    "task": "binary",
    "columns": [
        {"name": "x", "bounds": [0, 100]},
        {"name": "y", "role": "label", "type": "category", "categories": ["0", "1"]},
    ],
}


DOCTOR = typer.Typer(rich_markup_mode="markdown")
doctor.register(DOCTOR)


def call(app: typer.Typer, *words: Any) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the checkout's params.yaml nor its workspace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FOLKMOOT_SITE_HOME", raising=False)


@pytest.fixture
def workspace(workspace_of: Callable[..., Path]) -> Path:
    return workspace_of(parse_params(SITES), ".folkmoot")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(CONTRACT))
    (tmp_path / "rows.csv").write_text("x,y\n" + "1,0\n2,1\n" * 10)
    return tmp_path


# site -------------------------------------------------------------------------------------------


def test_a_new_site_from_nothing_to_enrolled_and_refreshed(sources: Path) -> None:
    made = call(
        site.app,
        *("init", "clinic", "--federation", "trial", "--epsilon-ceiling", "3"),
        *("--mechanism", "gaussian", "--data", "rows.csv", "--contract", "contract.yaml"),
    )
    assert made.exit_code == 0
    home = SiteHome.find("clinic", ".folkmoot")
    permissions = home.settings.permissions
    assert (permissions.federations, permissions.mechanisms) == (["trial"], ["gaussian"])
    assert permissions.epsilon_ceiling == 3.0
    assert pd.read_parquet(home.dataset)["y"].tolist() == ["0", "1"] * 10
    first = dataset.resolve(home)

    assert call(site.app, "enrol", home.root / "public.toml").exit_code == 0
    assert set(Roster.load(Path(".folkmoot/roster.toml")).keys) == {"clinic"}
    assert "already" in call(site.app, "enrol", "clinic").stdout

    pd.DataFrame({"x": [5.0, 6.0], "y": ["0", "1"]}).to_parquet("march.parquet")
    done = call(site.app, "refresh", "clinic", "--data", "march.parquet", "-m", "Add March")
    second = dataset.resolve(home)
    assert second.fingerprint[:12] in done.stdout
    assert second.fingerprint != first.fingerprint
    assert git(home.root, "log", "-1", "--format=%s") == "Add March"

    shown = json.loads(call(site.app, "show", "clinic", "--json").stdout)
    assert shown["dataset"] == second.fingerprint
    assert shown["revision"] == second.revision
    assert second.md5 not in json.dumps(shown)
    assert call(site.app, "show", "clinic").exit_code == 0


def test_options_are_checked_before_anything_is_made(sources: Path) -> None:
    with pytest.raises(FolkmootError, match="needs the contract"):
        call(site.app, "init", "clinic", "--data", "rows.csv")
    with pytest.raises(FolkmootError, match="is not a file"):
        call(site.app, "init", "clinic", "--data", "absent.csv")
    with pytest.raises(FolkmootError, match="minimum_rows"):
        call(site.app, "init", "clinic", "--minimum-rows", "0")
    (sources / "rows.txt").write_text("x")
    with pytest.raises(FolkmootError, match=r"neither \.csv nor \.parquet"):
        call(site.app, "init", "clinic", "--data", "rows.txt")
    assert not Path(".folkmoot").exists()


def test_the_remote_is_where_it_was_asked_for(sources: Path) -> None:
    call(site.app, "init", "clinic", "--remote", "backup", "--folder", "home")
    call(
        site.app,
        *("refresh", "clinic", "--data", "rows.csv", "--contract", "contract.yaml"),
        *("--workspace", _linked(sources / "home", "clinic")),
    )
    assert list((sources / "backup" / "files" / "md5").iterdir())


def _linked(root: Path, name: str) -> Path:
    """A workspace whose site is a folder elsewhere."""
    workspace = root.parent / "linked"
    (workspace / "sites").mkdir(parents=True)
    (workspace / "sites" / name).symlink_to(root)
    return workspace


def test_another_key_needs_replace(workspace: Path) -> None:
    public = workspace / "sites" / "a" / "public.toml"
    text = public.read_text()
    other = SiteHome.find("b", workspace).root / "public.toml"
    forged = workspace / "forged.toml"
    forged.write_text(other.read_text().replace('"b"', '"a"'))
    with pytest.raises(FolkmootError, match="another key for site a"):
        call(site.app, "enrol", forged)
    assert "is enrolled" in call(site.app, "enrol", forged, "--replace").stdout
    assert text == public.read_text()


@pytest.mark.parametrize("content", ["", "name = 'a'", "name = 'a'\nkey = 'zz'", "name = ["])
def test_no_public_toml(tmp_path: Path, content: str) -> None:
    (tmp_path / "public.toml").write_text(content)
    with pytest.raises(FolkmootError, match=r"not the public\.toml of a site"):
        call(site.app, "enrol", "public.toml")
    assert not Path(".folkmoot/roster.toml").exists()


def test_a_site_without_data_is_shown_as_such(tmp_path: Path) -> None:
    SiteHome.create(tmp_path / ".folkmoot" / "sites" / "new", "new")
    shown = json.loads(call(site.app, "show", "new", "--json").stdout)
    assert shown["dataset"] is None
    assert "folkmoot site refresh new" in shown["fault"]


# data -------------------------------------------------------------------------------------------


def test_data_list_and_show() -> None:
    listed = json.loads(call(data.app, "list", "--json").stdout)
    assert {"heart", "adult", "synthetic"} < {recipe["name"] for recipe in listed}
    assert call(data.app, "list").exit_code == 0
    assert "progression" in call(data.app, "show", "diabetes").stdout
    text = call(data.app, "show", "adult", "--yaml").stdout
    Path("adult.yaml").write_text(text)
    from folkmoot.contract import load_contract
    from pipelines.recipes import contract_of

    own = contract_of(parse_params({"data": {"recipe": "adult"}}).data)
    assert load_contract("adult.yaml") == own


def test_data_make(workspace: Path) -> None:
    words = ["--set", "federation.sites=[a, b]", "--set", "data.recipe=diabetes"]
    made = json.loads(call(data.app, "make", *words, "--json").stdout)
    assert made["changed"] is False
    assert [row["rows"] for row in made["sites"]] == [221, 221]
    assert call(data.app, "make", *words).exit_code == 0


# doctor -----------------------------------------------------------------------------------------

WORDS = ("--set", "federation.sites=[a, b]", "--set", "data.recipe=diabetes", "--json")


def examine(*words: str) -> tuple[int, dict[str, dict[str, str]]]:
    result = call(DOCTOR, *(words or WORDS))
    findings = json.loads(result.stdout)["findings"]
    return result.exit_code, {finding["what"]: finding for finding in findings}


def test_a_whole_installation_has_no_fault(workspace: Path) -> None:
    code, findings = examine()
    assert [f for f in findings.values() if f["state"] == "fault"] == []
    assert code == 0
    assert {"Python", "git", "params", "roster", "MLflow", "a: ledger", "b: DVC remote"} <= set(
        findings
    )
    assert call(DOCTOR, *WORDS[:-1]).exit_code == 0


def readable(home: SiteHome) -> None:
    (home.root / "site.toml").chmod(0o644)


def other_key(home: SiteHome) -> None:
    roster = Roster.load(home.root.parents[1] / "roster.toml")
    roster.keys["a"] = roster.keys["b"]
    roster.save(home.root.parents[1] / "roster.toml")


def lost_secret(home: SiteHome) -> None:
    (home.private / "secret.key").unlink()


def tracked(home: SiteHome) -> None:
    git(home.root, "add", "-f", "site.toml")


def changed(home: SiteHome) -> None:
    home.dataset.write_bytes(b"x")


def lost_settings(home: SiteHome) -> None:
    (home.root / "site.toml").write_text("name = [")


def broken_ledger(home: SiteHome) -> None:
    home.ledger_path.write_bytes(b"no ledger at all" * 100)
    home.ledger_path.chmod(0o600)


@pytest.mark.parametrize(
    ("harm", "what", "remedy"),
    [
        (readable, "a: modes", "chmod go="),
        (other_key, "a: roster", "--replace"),
        (lost_secret, "a: keys", "backup"),
        (tracked, "a: git", "git rm"),
        (changed, "a: dataset", "folkmoot site refresh a"),
        (lost_settings, "a: settings", "Mend"),
        (broken_ledger, "a: ledger", ""),
    ],
)
def test_each_fault_is_found_with_its_remedy(
    workspace: Path, harm: Callable[[SiteHome], None], what: str, remedy: str
) -> None:
    harm(SiteHome.find("a", workspace))
    code, findings = examine()
    assert code == 2
    assert findings[what]["state"] == "fault"
    assert remedy in findings[what]["remedy"]
    assert findings["b: dataset"]["state"] == "ok"
    code, findings = examine("--site", "a", "--json")
    assert code == 2
    assert findings[what]["state"] == "fault"


def test_warnings_end_well(workspace: Path) -> None:
    shutil.rmtree(workspace / "remotes" / "a" / "files")
    uri = "tracking.uri='http://user:hidden@127.0.0.1:9'"
    code, findings = examine(*WORDS, "--set", uri)
    assert code == 0
    assert findings["a: DVC remote"]["state"] == "warning"
    assert findings["MLflow"]["state"] == "warning"
    assert "hidden" not in json.dumps(findings)


def test_faulty_params_are_a_finding() -> None:
    code, findings = examine("--json", "--set", "data.recipe=iris")
    assert code == 2
    assert findings["params"]["state"] == "fault"


def test_a_site_alone_needs_no_coordinator(workspace: Path) -> None:
    _, findings = examine("--site", "a", "--json")
    assert "packages (coordinator)" not in findings
    assert "MLflow" not in findings


@pytest.mark.parametrize(
    ("app", "words", "text"),
    [
        (site.app, ["--help"], "enrol"),
        (site.app, ["init", "--help"], "--epsilon-ceiling"),
        (data.app, ["make", "--help"], "dirichlet"),
        (DOCTOR, ["--help"], "--site"),
    ],
)
def test_help_teaches_by_example(app: typer.Typer, words: list[str], text: str) -> None:
    shown = call(app, *words).stdout
    assert text in shown
    assert "folkmoot" in shown
