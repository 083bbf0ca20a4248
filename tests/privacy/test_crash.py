"""Killed at any line of the release path and started again: the same bytes, charged once.

What a killed process leaves is what lies on the disk.  A first release, which ends well, notes it line
by line; others are killed at the first and the last line of every stretch that leaves the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
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
from folkmoot.privacy.ledger import (
    audit,
    book,
    ceilings,
    clock,
    entries,
    plans,
    reader,
    store,
    totals,
)
from site_tasks.home import SiteHome
from site_tasks.release import check_releases, open_ledger

from .conftest import GAUSSIAN, Site

TRACED = {
    module.__file__
    for module in (
        folkmoot.exchange,
        *(audit, book, ceilings, clock, entries, plans, reader, store, totals),
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


def traced(site: Site, overrides: tuple[str, ...], at: Callable[[int], None]) -> bool:
    """Release in a child that does ``at(n)`` before its n-th line; False where that let it finish."""
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
                if visits[place] <= VISITS:
                    seen += 1
                    at(seen)
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


def killed(site: Site, overrides: tuple[str, ...], line: int) -> bool:
    """Release in a child that dies before its ``line``-th line; False where it finished first."""

    def die(seen: int) -> None:
        if seen == line:
            os._exit(DIED)

    return traced(site, overrides, die)


def on_disk(folder: Path) -> str:
    """Digest of all that lies below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        found.update(b"%b %d " % (str(path.relative_to(folder)).encode(), len(content)) + content)
    return found.hexdigest()


def lines(site: Site, overrides: tuple[str, ...], note: Path) -> tuple[list[int], int]:
    """Lines to be killed at, the first and the last of each state of the disk; how many there are."""
    with note.open("w") as file:

        def look(seen: int) -> None:
            file.write(f"{on_disk(site.workspace)}\n")
            file.flush()

        assert not traced(site, overrides, look)
    states = note.read_text().splitlines()
    ends = [n for n, (a, b) in enumerate(pairwise(states), start=1) if a != b]
    return sorted({1, *ends, *(n + 1 for n in ends), len(states), len(states) + 1}), len(states)


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
    chosen, passed = lines(fresh(site, folder / "watched"), overrides, folder / "states")
    for line in chosen:
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
        assert died == (line <= passed), f"line {line} of {passed}"
    # Every kind of death was met: before and after the reservation, before and after persisting.
    assert passed > 100
    assert len(chosen) > 20
    if overrides:
        assert set(outcomes) == {1, 2}
