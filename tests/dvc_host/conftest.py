"""A real project: git and DVC repository, two sites, reproduced once and copied for each test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from folkmoot.params import load_params
from folkmoot.plan import keys
from pipelines.hosts.dvc_project import Project
from tests.conftest import copy_workspace

SETTINGS: dict[str, Any] = {
    "federation": {"name": "pair", "sites": ["north", "south"], "quorum": None},
    "data": {"recipe": "breast_cancer", "scaling": "bounds"},
    "model": {"linear": {"strategy": "newton", "rounds": 2, "l2": 1.0}},
    "tracking": {"enabled": False, "baselines": False},
}


class Checkout:
    """A project's folder and the commands a user types in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def project(self) -> Project:
        return Project.beside(self.folder / "params.yaml")

    def change(self, **sections: dict[str, Any]) -> None:
        """Edit params.yaml; ``model`` is merged into the linear section."""
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        for name, section in sections.items():
            target = values["model"]["linear"] if name == "model" else values.setdefault(name, {})
            target.update(section)
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        load_params(path)

    def dvc(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def repro(self, *arguments: str) -> list[str]:
        """Stages that ran."""
        output = self.dvc("repro", *arguments)
        marker = "Running stage '"
        return [line.split("'")[1] for line in output.splitlines() if line.startswith(marker)]

    def model(self, round: int) -> bytes:
        return self.project.stored(keys.model(round)).read_bytes()

    def update(self, round: int, site: str) -> bytes:
        return self.project.stored(keys.update(round, site)).read_bytes()

    def site(self, name: str) -> Any:
        from site_tasks.home import SiteHome

        return SiteHome.find(name, self.project.workspace)


def environment() -> dict[str, str]:
    """Where stages find this Python and these packages, and git an author."""
    root = str(Path(__file__).resolve().parents[2])
    author = {
        f"GIT_{role}_{part}": "tests@example.org"
        for role in ("AUTHOR", "COMMITTER")
        for part in ("NAME", "EMAIL")
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, **author, "PATH": path, "PYTHONPATH": root, "DVC_NO_ANALYTICS": "1"}


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", *arguments], cwd=folder, env=environment(), check=True, capture_output=True
    )


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed project after its first ``dvc repro``."""
    checkout = Checkout(tmp_path_factory.mktemp("dvc") / "project")
    checkout.folder.mkdir()
    (checkout.folder / "params.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    (checkout.folder / ".gitignore").write_text(".folkmoot/\n")
    git(checkout.folder, "init", "--quiet")
    checkout.dvc("init", "--quiet")
    checkout.project.render()
    checkout.repro()
    git(checkout.folder, "add", "--all")
    git(checkout.folder, "commit", "--quiet", "-m", "Train for two rounds")
    return checkout.folder


@pytest.fixture
def checkout(reproduced: Path, tmp_path: Path) -> Checkout:
    """A copy of the reproduced project of one's own."""
    copy_workspace(reproduced, tmp_path / "project")
    return Checkout(tmp_path / "project")


@pytest.fixture
def commit() -> Callable[[Checkout, str], None]:
    """Commit everything in a checkout."""

    def do(checkout: Checkout, message: str) -> None:
        git(checkout.folder, "add", "--all")
        git(checkout.folder, "commit", "--quiet", "-m", message)

    return do
