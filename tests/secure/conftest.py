"""Federations under masks, on their way into the first round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import copy_workspace
from tests.secure.trial import Trial, settings


@pytest.fixture(scope="session")
def uploaded(
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
def trial(uploaded: dict[str, Path], tmp_path: Path) -> Trial:
    """After the first round's uploads."""
    return _copy(uploaded["uploaded"], tmp_path / "trial")


@pytest.fixture
def announced(uploaded: dict[str, Path], tmp_path: Path) -> Trial:
    """After the first task of the set-up."""
    return _copy(uploaded["announced"], tmp_path / "trial")
