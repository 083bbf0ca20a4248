"""Committed pages say what the program does: reference, errors, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from folkmoot import errors
from folkmoot.cli.reference import PAGES
from folkmoot.contract import Contract
from folkmoot.params import Params
from folkmoot.sections import load_yaml, parse

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "docs" / "reference"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_committed_page_is_the_generated_one(page: str) -> None:
    """`make docs` mends it."""
    assert (REFERENCE / page).read_text(encoding="utf-8") == PAGES[page]()


def test_every_key_of_params_is_explained() -> None:
    page = PAGES["params.md"]()
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| .* \| (.*) \|$", page, re.MULTILINE)
    assert {key for key, meaning in rows if not meaning.strip()} == set()
    expected = {
        f"{section}.{key}"
        for section, kind in Params.model_fields.items()
        for key in kind.annotation.model_fields
    }
    assert expected <= {key for key, _ in rows}


def test_every_code_stands_on_the_errors_page_and_nothing_else() -> None:
    page = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+\.[a-z-]+)`", page, re.MULTILINE)) == set(errors.CODES)


def test_every_code_in_the_source_is_known_and_every_code_is_used() -> None:
    used: set[str] = set()
    families = {code.partition(".")[0] for code in errors.CODES}
    pattern = re.compile(rf'"((?:{"|".join(families)})\.[a-z]+(?:-[a-z]+)*)"')
    for room in ("folkmoot", "site_tasks", "pipelines"):
        for file in (REPOSITORY / room).rglob("*.py"):
            if file.name != "errors.py":
                raised = re.findall(
                    r"Error\(\s*" + pattern.pattern, file.read_text(encoding="utf-8")
                )
                assert set(raised) <= set(errors.CODES), file
                used |= set(pattern.findall(file.read_text(encoding="utf-8")))
    assert set(errors.CODES) <= used


def test_the_contracts_of_the_pages_are_valid() -> None:
    import yaml

    for page in (REFERENCE / "contract.md", REPOSITORY / "docs/how-to/own-csv.md"):
        block = re.search(r"```yaml\n((?:#.*\n)?name:.*?)```", page.read_text(), re.DOTALL)
        assert block is not None, page
        parse(Contract, yaml.safe_load(block[1]), source=page.name)


def test_the_settings_of_the_pages_are_valid() -> None:
    import yaml

    sections = set(Params.model_fields)
    found = 0
    for page in (REPOSITORY / "docs").rglob("*.md"):
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            values = yaml.safe_load(block)
            if isinstance(values, dict) and set(values) <= sections:  # others show lists of columns
                parse(Params, values, source=page.name)
                found += 1
    assert found >= 3


def test_the_demos_params_are_valid_and_commented() -> None:
    path = REPOSITORY / "params.yaml"
    params = parse(Params, load_yaml(path), source="params.yaml")
    assert params.data.recipe == "breast_cancer"
    assert set(load_yaml(path)) == set(Params.model_fields)


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                if target.startswith("docs/images/") or "/images/" in target:
                    continue
                assert (page.parent / target).exists(), f"{page.name}: {target}"
