"""Federations under masks, on their way into the first round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from folkmoot.secure.rehearsal import Rehearsal
from tests.conftest import copy_workspace
from tests.secure.trial import NAMES, Trial, settings


@pytest.fixture(scope="session")
def workspaces(
    prototype: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Workspaces after the keys were announced, and after the first round's uploads."""
    params = settings()
    root = tmp_path_factory.mktemp("uploaded")
    copy_workspace(prototype(params), root / "announced")
    made = Trial(params, root / "announced")
    made.walk("prepare/")
    made.walk("setup/", until="share")
    copy_workspace(root / "announced", root / "uploaded")
    made = Trial(params, root / "uploaded")
    made.walk("setup/", "round-000/")
    made.walk("round-001/", until="survivors")
    return {"announced": root / "announced", "uploaded": root / "uploaded"}


def _copy(source: Path, target: Path) -> Trial:
    copy_workspace(source, target)
    return Trial(settings(), target)


@pytest.fixture
def trial(workspaces: dict[str, Path], tmp_path: Path) -> Trial:
    """After the first round's uploads."""
    return _copy(workspaces["uploaded"], tmp_path / "trial")


@pytest.fixture
def announced(workspaces: dict[str, Path], tmp_path: Path) -> Trial:
    """After the first task of the set-up."""
    return _copy(workspaces["announced"], tmp_path / "trial")


@pytest.fixture
def federation() -> Rehearsal:
    """Sites whose keys and shares are dealt, without folders or a plan."""
    made = Rehearsal(NAMES, sums=3)
    made.set_up()
    return made


@pytest.fixture
def uploaded(federation: Rehearsal) -> Rehearsal:
    """The same after the first sum's uploads."""
    for name in NAMES:
        federation.upload(name, np.zeros(4, np.uint64), 0)
    return federation
