"""``folkmoot ledger`` on a real site."""

from __future__ import annotations

import json
import sqlite3

import pytest
from typer.testing import CliRunner

from folkmoot.cli.ledger import app
from folkmoot.errors import ConfigError, PrivacyError

from .conftest import GAUSSIAN, Site


def invoke(site: Site, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--workspace", str(site.workspace)])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_show_says_what_was_spent_and_what_is_left(site: Site) -> None:
    site.permit(epsilon_ceiling=10.0)
    for round in (1, 2):
        site.release(site.context(*GAUSSIAN), round=round)
    shown = json.loads(invoke(site, "show", "site-a", "--json"))
    assert shown["epsilon"] == pytest.approx(2.8, abs=0.5)
    assert shown["method"] == "analytic-gaussian"
    (run,) = shown["runs"]
    assert (run["releases"], run["charged"], run["unfinished"]) == (2, 2, 0)
    text = invoke(site, "show", "site-a")
    assert "gaussian" in text
    assert "ceiling 10" in text
    assert "no epsilon covers" not in text
    site.permit(epsilon_ceiling=None)
    site.release(site.context(run="exact"))
    assert "no epsilon covers" in invoke(site, "show", "site-a")


def test_show_at_another_delta(site: Site) -> None:
    site.release(site.context(*GAUSSIAN))
    strict, plain = (
        json.loads(invoke(site, "show", "site-a", "--json", "--delta", delta))["epsilon"]
        for delta in ("1e-9", "1e-5")
    )
    assert strict > plain


def test_export_is_json_lines(site: Site) -> None:
    site.release(site.context(*GAUSSIAN))
    lines = [json.loads(line) for line in invoke(site, "export", "site-a").splitlines()]
    assert [line["kind"] for line in lines] == ["open", "reserve", "commit"]
    path = site.workspace / "ledger.jsonl"
    invoke(site, "export", "site-a", "-o", str(path))
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines


def test_verify_holds_and_then_finds_an_edit(site: Site) -> None:
    site.release(site.context(*GAUSSIAN))
    assert "3 entries and 1 stored releases hold" in invoke(site, "verify", "site-a")
    with sqlite3.connect(site.home.ledger_path) as db:
        db.execute("DROP TRIGGER no_update")
        db.execute(
            "UPDATE entries SET content = replace(content, '2.0', '9.0') WHERE kind = 'reserve'"
        )
        db.execute(
            "CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, ''); END"
        )
    db.close()
    with pytest.raises(PrivacyError) as caught:
        invoke(site, "verify", "site-a")
    assert caught.value.code == "privacy.ledger"
    assert caught.value.exit_code == 4


def test_looking_at_a_site_that_never_released_makes_no_ledger(site: Site) -> None:
    for command in ("show", "verify", "export"):
        with pytest.raises(ConfigError, match="released nothing yet"):
            invoke(site, command, "site-a")
    assert not site.home.ledger_path.exists()
