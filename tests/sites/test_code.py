"""Which commit runs here, where the checkout is another user's: as under the shipped systemd unit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from site_tasks.code import commit_of
from site_tasks.git import git
from tests.conftest import REPOSITORY

#: A user without rights, as ``folkmoot-<site>`` is; named by its number, which every Linux has.
NOBODY = 65534
#: What a worker asks before it starts, and each task before it does anything.
CHILD = """
import json, os, sys
from pathlib import Path
from pipelines.hosts import airflow_worker_setup as worker
from site_tasks import code
from site_tasks.git import git
worker.PROJECT = code._ROOT = root = Path(sys.argv[1])
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
other = code.commit_of(Path(sys.argv[3]))
plain = git(root, "rev-parse", "HEAD", check=False)
print(json.dumps([plain, worker.code(), code.checkout(), other]))
"""


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A checkout of this test's user that everybody may read; pytest's own folders are private."""
    folder = Path(tempfile.mkdtemp(prefix="folkmoot-checkout-"))
    folder.chmod(0o755)
    root = folder / "folkmoot"
    try:
        _made(root)
        yield root
    finally:
        shutil.rmtree(folder)


def _made(root: Path) -> None:
    (root / "inside").mkdir(parents=True)
    (root / "code.py").write_text("good\n")
    git(root, "init", "-q")
    git(root, "add", "code.py")
    git(root, "commit", "-q", "-m", "Code")


def _asked(root: Path, other: Path | None = None, **environment: str) -> list[Any]:
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("only root can be another user: run as root to ask as one")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(NOBODY), str(other or root / "inside")],
        cwd=REPOSITORY,
        env={**os.environ, "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_another_users_checkout_tells_its_commit(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    plain, worker, task, other = _asked(checkout)
    assert plain is None, "git would read it by itself: the test proves nothing"
    assert worker == task == [commit, False]
    assert other == [None, False], "a folder inside is no checkout of its own"
    (checkout / "code.py").write_text("bad\n")
    _, worker, task, _ = _asked(checkout)
    assert worker == task == [commit, True]


def test_no_other_repository_is_trusted_by_it(checkout: Path) -> None:
    """The settings are for the one root, and what the machine's owner set by them stays."""
    beside = checkout.parent / "beside"
    _made(beside)
    set_by_owner = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": str(beside),
    }
    plain, worker, *_ = _asked(checkout, **set_by_owner)
    assert plain is None
    assert worker[0] == git(checkout, "rev-parse", "HEAD")
    plain, *_ = _asked(beside, **set_by_owner)
    assert plain == git(beside, "rev-parse", "HEAD")


def test_asking_starts_no_program_that_the_repository_names(checkout: Path) -> None:
    ran = checkout.parent / "ran"
    program = checkout.parent / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    for hook in ("post-index-change", "post-checkout"):
        shutil.copy(program, checkout / ".git" / "hooks" / hook)
    git(checkout, "config", "core.fsmonitor", str(program))
    git(checkout, "status")
    assert ran.exists(), "git would not start it anyway: the test proves nothing"
    ran.unlink()
    index = (checkout / ".git" / "index").read_bytes()
    os.utime(checkout / "code.py")  # git would note the new time in its index
    assert commit_of(checkout) == (git(checkout, "rev-parse", "HEAD"), False)
    assert not ran.exists()
    assert (checkout / ".git" / "index").read_bytes() == index


def test_a_worktree_is_a_checkout_too(checkout: Path) -> None:
    """Its ``.git`` is a file that names the repository."""
    tree = checkout.parent / "tree"
    git(checkout, "worktree", "add", "-q", "--detach", str(tree))
    assert commit_of(tree) == (git(checkout, "rev-parse", "HEAD"), False)
    assert commit_of(checkout.parent) == (None, False)


def test_a_hook_of_another_repository_does_not_answer(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(REPOSITORY / ".git"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "many")
    assert commit_of(checkout) == (own, False)
