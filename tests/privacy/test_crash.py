"""Killed at any line of the release path and started again: the same bytes, charged once."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import folkmoot.exchange
import site_tasks.privatise
import site_tasks.release
import site_tasks.seal
from folkmoot.exchange import ExchangeStore
from folkmoot.plan import keys
from folkmoot.privacy.ledger import audit, book, ceilings, clock, entries, store, totals
from site_tasks.home import SiteHome
from site_tasks.release import check_releases, open_ledger

from .conftest import GAUSSIAN, Site

TRACED = {
    module.__file__
    for module in (
        folkmoot.exchange,
        *(audit, book, ceilings, clock, entries, store, totals),
        site_tasks.privatise,
        site_tasks.release,
        site_tasks.seal,
    )
}
DIED = 77
#: A line in a loop is met at its first visit: what is safe on disk is the same at later ones.
VISITS = 1


def fresh(site: Site, root: Path) -> Site:
    """The same site before its first release, in another folder."""
    workspace = root / "workspace"
    target = workspace / "sites" / "site-a"
    target.mkdir(parents=True)
    shutil.copy(site.home.root / "site.toml", target)
    shutil.copytree(site.home.private, target / "private")
    store = ExchangeStore(workspace / "exchange")
    return replace(site, home=SiteHome(target), workspace=workspace, store=store, made=0)


def killed(site: Site, overrides: tuple[str, ...], line: int) -> bool:
    """Release in a child that dies before its ``line``-th line; False where it finished first."""
    child = os.fork()
    if child == 0:
        seen, visits = 0, Counter[tuple[str, int]]()

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal seen
            if frame.f_code.co_filename not in TRACED:
                return None
            if event == "line":
                place = frame.f_code.co_filename, frame.f_lineno
                visits[place] += 1
                seen += visits[place] <= VISITS
                if seen == line and visits[place] <= VISITS:
                    os._exit(DIED)
            return trace

        try:
            context = site.context(*overrides)
            sys.settrace(trace)
            site.release(context)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, DIED)
    return status == DIED


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Memory instead of disk where there is some: what a killed process wrote stays either way."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def stored(site: Site) -> list[bytes]:
    return [p.read_bytes() for p in site.home.releases.iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize("overrides", [(), GAUSSIAN], ids=["none", "gaussian"])
def test_kill_at_every_line(site: Site, folder: Path, overrides: tuple[str, ...]) -> None:
    reference = fresh(site, folder / "reference").release(site.context(*overrides))
    outcomes: dict[int, int] = {}
    line = 1
    while True:
        trial = fresh(site, folder / str(line))
        died = killed(trial, overrides, line)
        persisted = stored(trial)
        context = trial.context(*overrides)
        published = trial.store.find(context.key(keys.update(1, "site-a")))
        ledger = open_ledger(trial.home, context.cache)
        reserved = sum(entry.kind == "reserve" for entry in ledger.entries())

        ref = trial.release(context)
        assert trial.release(context) == ref, f"line {line}: a third start gave other bytes"
        data = trial.store.get(ref.key)
        assert stored(trial) == [data]
        if persisted:
            assert data == persisted[0], f"line {line}: bytes that were safe were made again"
            assert trial.made == 0
        if published is not None:
            assert data == published, f"line {line}: published bytes changed"
        if not overrides:
            assert ref == reference or ref.digest == reference.digest

        entries = ledger.entries()
        reserves = [entry for entry in entries if entry.kind == "reserve"]
        commits = [entry for entry in entries if entry.kind == "commit"]
        expected = 0 if not overrides else reserved + (0 if persisted else 1)
        assert len(reserves) == expected, f"line {line}: charged {len(reserves)} times"
        assert len(commits) == 1
        assert commits[0].content["artefact"] == ref.digest
        assert ledger.verify() == len(entries)
        assert check_releases(trial.home, ledger) == 1
        ledger.close()
        outcomes[len(reserves)] = outcomes.get(len(reserves), 0) + 1
        shutil.rmtree(folder / str(line))
        if not died:
            break
        line += 1 if overrides else 3  # without noise there is less to lose
    # Every kind of death was met: before and after the reservation, before and after persisting.
    assert line > 100
    if overrides:
        assert set(outcomes) == {1, 2}
