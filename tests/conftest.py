"""Shared by all tests: workspaces that cost nothing to make twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

# One thread per library and test process: two test workers share two cores.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

REPOSITORY = Path(__file__).resolve().parents[1]


def real_data(folder: str) -> Path:
    """Folder of real data beside the checkout or under FOLKMOOT_DATA; skips where it is absent."""
    for root in (os.environ.get("FOLKMOOT_DATA"), REPOSITORY.parent / "shared" / "data"):
        if root and (Path(root) / folder).is_dir():
            return Path(root) / folder
    pytest.skip(f"{folder} data is absent: set FOLKMOOT_DATA to a folder that has it")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests come first at every worker: none begins when the others are done.

    xdist's workers get a stretch of the tests each, and take from each other's ends later.  The slow
    modules of a folder, which share what is made once, stay together.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    folders = list(dict.fromkeys(item.path.parent for item in items if item.path in slow))
    rest = [item for item in items if item.path not in slow]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        for folder in folders[worker::workers]:
            ordered += [i for i in items if i.path in slow and i.path.parent == folder]
        share = len(items) * (worker + 1) // workers - len(ordered)
        ordered += [rest.pop(0) for _ in range(min(share, len(rest)))]
    items[:] = ordered


@pytest.fixture(scope="session")
def prototype(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a workspace of sites once per set of params; later calls find it."""
    made: dict[str, Path] = {}

    def make(params: Any) -> Path:
        from pipelines.simulation import ensure_sites

        stamp = repr((params.federation.members, params.data))
        if stamp not in made:
            made[stamp] = tmp_path_factory.mktemp("prototype") / "workspace"
            ensure_sites(params, made[stamp])
        return made[stamp]

    return make


@pytest.fixture
def workspace_of(prototype: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A private copy of a prepared workspace for one test: ``workspace_of(params, "name")``."""

    def copy(params: Any, name: str = "workspace") -> Path:
        target = tmp_path / name
        return copy_workspace(prototype(params), target)

    return copy


def copy_workspace(source: Path, target: Path) -> Path:
    """A copy of a workspace for one test.

    DVC closes the write-ahead logs of its index when Python lets go of the connections, which may
    be while they are copied; the index is a cache, and whole without them.
    """

    def logs(folder: str, names: list[str]) -> set[str]:
        closing = "/private/dvc" in Path(folder).as_posix()
        return {name for name in names if closing and name.endswith(("-wal", "-shm"))}

    return Path(shutil.copytree(source, target, symlinks=True, ignore=logs))


def agreed(home: Any, members: Iterable[str]) -> Any:
    """A roster on which every member has the key of ``home``, signed by all and accepted there."""
    from folkmoot.identity import Roster, public_text
    from site_tasks.membership import accept, accepted

    key = home.key()
    known = accepted(home) or Roster({})
    roster = known.amended(dict.fromkeys([home.name, *members], public_text(key)), None)
    for name in roster.keys:
        roster = roster.signed(name, key)
    accept(home, roster)
    return roster


def signed_anew(context: Any, key: str, data: bytes) -> None:
    """Put what a lying coordinator puts under ``key``, whatever is there, under its signature."""
    from folkmoot.identity.orders import order, signature_key
    from folkmoot.wire import digest
    from pipelines.coordinator.identity import coordinator_key

    signing = coordinator_key(context.workspace)
    made = order(context.federation, context.run, key, digest(data), signing)
    for name, content in ((key, data), (signature_key(key), made)):
        path = Path(context.store.url) / context.key(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
