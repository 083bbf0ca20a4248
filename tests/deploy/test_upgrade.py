"""Parties of one federation are upgraded one after another, while it trains.

A later minor version is a copy of the packages with its number and with keys that this version does
not know.  Each version is a process of its own; what they share is the exchange store.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import folkmoot
from folkmoot.params import parse_params
from folkmoot.plan import COORDINATOR, keys
from folkmoot.versions import together
from folkmoot.wire import decode
from pipelines.hosts.embedded import run as train
from pipelines.hosts.walk import contract_for
from pipelines.plans import plan_of
from tests.conftest import copy_workspace

ROOT = Path(__file__).resolve().parents[2]
CHANGES = [
    *("federation.sites=[site-a,site-b,site-c]", "data.recipe=synthetic", "data.rows=200"),
    *("data.columns=4", "model.linear.rounds=2", "tracking.enabled=false"),
    *("aggregation.protection=masks", "model.linear.early_stopping.tolerance=0.0"),
]
PARAMS = parse_params({}, CHANGES)
#: What a later version adds before the line that is named: keys, and a section.
ADDED = {
    "folkmoot/params/federation.py": ("    quorum: Annotated", "    later: int = 0\n"),
    "folkmoot/params/privacy.py": ("    mechanism: Literal", "    later: int = 0\n"),
    "folkmoot/params/root.py": ("    approval: Approval", "    later: Approval = Approval()\n"),
    "folkmoot/contract.py": ("    clip: bool", "    later: str | None = None\n"),
}
#: Carries out the steps that it is told, and tells how each ended.
PARTY = """
import json, sys
from pathlib import Path
from folkmoot.errors import FolkmootError
from folkmoot.params import parse_params
from pipelines.coordinator.open_round import open_run
from pipelines.hosts.execute import execute, open_context, store_of
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of

workspace, runs = Path(sys.argv[1]), {}
for line in sys.stdin:
    run, step, changes = json.loads(line)
    try:
        params = parse_params({}, changes)
        store = store_of(params, workspace)
        if step == "open":
            open_run(params, contract_for(params), roster_for(workspace), run, store, workspace)
        else:
            if run not in runs:
                runs[run] = open_context(run, params.federation.name, store, workspace)
            context = runs[run]
            execute(plan_of(context.params, context.contract).step(step), context)
        told = None
    except FolkmootError as error:
        told = f"{error.code}: {error.message}"
    print(json.dumps(told), flush=True)
"""


def version(later: int) -> str:
    major, minor, *_ = folkmoot.__version__.split(".")
    return f"{major}.{int(minor) + later}.0"


class Party:
    """A process that runs one version of the packages."""

    def __init__(self, packages: Path, workspace: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PARTY, str(workspace)],
            env=environment,
            cwd=packages,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, run: str, step: str, changes: list[str] = CHANGES) -> str | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([run, step, changes]) + "\n")
        self._process.stdin.flush()
        told: str | None = json.loads(self._process.stdout.readline())
        return told

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def packages(folder: Path, number: str, added: Mapping[str, tuple[str, str]]) -> Path:
    """A later version of the packages."""
    for name in ("folkmoot", "site_tasks", "pipelines"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    (folder / "folkmoot" / "__init__.py").write_text(f'__version__ = "{number}"\n')
    for name, (before, lines) in added.items():
        text = (folder / name).read_text()
        assert text.count(f"\n{before}") == 1, name
        (folder / name).write_text(text.replace(f"\n{before}", f"\n{lines}{before}"))
    return folder


@pytest.fixture
def parties(prototype: Any, tmp_path: Path) -> Iterator[tuple[Path, Party, Party, Party]]:
    workspace = copy_workspace(prototype(PARAMS), tmp_path / "workspace")
    made = [
        Party(folder, workspace)
        for folder in (
            ROOT,
            packages(tmp_path / "next", version(1), ADDED),
            packages(tmp_path / "far", version(2), {}),
        )
    ]
    old, new, far = made
    yield workspace, old, new, far
    for party in made:
        party.end()


def test_one_party_after_another_is_upgraded(
    parties: tuple[Path, Party, Party, Party], prototype: Any, tmp_path: Path
) -> None:
    workspace, old, new, far = parties
    undisturbed = copy_workspace(prototype(PARAMS), tmp_path / "undisturbed")
    steps = plan_of(PARAMS, contract_for(PARAMS)).steps
    federation = PARAMS.federation.name

    # One site is upgraded before the coordinator; after the first round the coordinator is, then a
    # second site.  The run goes on, and the next one is opened by the new version.
    at = {COORDINATOR: old, "site-a": new, "site-b": old, "site-c": old}
    for run in ("one", "two"):
        assert at[COORDINATOR].do(run, "open") is None
        for step in steps:
            if run == "one" and step.name.startswith("round-002/") and at[COORDINATOR] is old:
                at |= {COORDINATOR: new, "site-b": new}
                assert new.do(run, "open") is None, "an upgraded coordinator finds its run again"
            assert at[step.place].do(run, step.name) is None, step.name
        train(PARAMS, run=run, workspace=undisturbed)
        key = Path("exchange") / federation / "runs" / run / keys.model(2)
        models = [decode((w / key).read_bytes()) for w in (workspace, undisturbed)]
        found, wanted = ({n: a.tobytes() for n, a in m.arrays.items()} for m in models)
        assert found == wanted, run  # headers hold digests of masked updates: no two are alike
        assert models[0].meta["participants"].keys() == set(PARAMS.federation.members)
    assert old.do("two", "open") is None, "and one that is put back does, too"

    # What an older site does not know is refused where it was set, and named.
    asked = [*CHANGES, "federation.later=1"]
    assert new.do("three", "open", asked) is None
    assert (old.do("three", steps[0].name) or "").startswith("protocol.version")
    assert "federation.later" in (old.do("three", steps[0].name) or "")
    assert new.do("three", steps[0].name, asked) is None

    # Two minor versions are too many, whoever is ahead.
    assert far.do("four", "open") is None
    for party, run, other in ((old, "four", version(2)), (far, "one", folkmoot.__version__)):
        told = party.do(run, steps[0].name) or ""
        assert told.startswith(f"protocol.version: Run {run} was opened with folkmoot {other}"), (
            told
        )
    assert (old.do("four", "open") or "").startswith("protocol.version")


@pytest.mark.parametrize(
    ("one", "other", "fit"),
    [
        ("0.1.0", "0.2.9", True),
        ("0.2.0rc1", "0.1.7", True),
        ("0.1.0", "0.3.0", False),
        ("1.0.0", "0.9.0", False),
        ("1.10.0", "1.1.0", False),
        ("1.10.0", "1.9.0", True),
        ("unknown", "0.1.0", False),
        ("", "", True),
    ],
)
def test_which_versions_work_together(one: str, other: str, fit: bool) -> None:
    assert together(one, other) is fit is together(other, one)


def test_no_default_changed_within_this_major_version() -> None:
    """A key that a run does not set means the same to its neighbours; new keys are none of these."""
    known = json.loads((ROOT / "tests" / "vectors" / "defaults.json").read_text())
    values = parse_params({}).model_dump(mode="json")

    def now(name: str) -> object:
        found: Any = values
        for part in name.split("."):
            found = found[part]
        return found

    assert {name: now(name) for name in known} == known
