"""Stored sums of finished trees: their files take those of the next tree.

Sums of histograms that left in the clear and without a cost can be made again from model and rows, and
nobody asks for a finished tree's.  A site would keep megabytes of every tree for ever; and to find new
pages for as many bytes took the system a quarter of a tree's time (``benchmarks/exact_trees.py``).  So
the site lists these releases as it stores them, a tree's files are written to again, and what is left
of the tree before goes.  Nothing else is ever listed: releases with a cost, under masks or encrypted
keep their files.  A file that has a second name, as in an exchange store that is a folder and keeps
its artefacts, is left alone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from folkmoot.exchange_backends import write_all

if TYPE_CHECKING:
    from folkmoot.plan import RunContext
    from site_tasks.home import SiteHome

__all__ = ["free_file", "note"]


@dataclass(frozen=True)
class _Free:
    path: str
    size: int


def note(context: RunContext, home: SiteHome, round: int, release_id: str) -> None:
    """Write down that a stored release can be made again; whoever is not listed keeps its file."""
    file = os.open(_list(context, home), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        write_all(file, f"{round} {release_id}\n".encode("ascii"))
    finally:
        os.close(file)


def free_file(context: RunContext, home: SiteHome, through: int, size: int) -> str | None:
    """A stored release that is not needed any more, the nearest in size; never told twice.

    Parameters
    ----------
    context, home : RunContext, SiteHome
        The run and the site.
    through : int
        Last round that nobody asks for again.
    size : int
        Bytes that are to be written.

    Returns
    -------
    str or None
        Its path, for :func:`site_tasks.persist.persist`, which looks whether it has one name.

    Notes
    -----
    Privacy cost: none.  O(levels of a tree); a process reads the list once per tree.
    """
    name, version = ("free files", home.name), (context.run, through)
    kept = context.cache.get(name)
    if kept is None or kept[0] != version:
        kept = context.cache[name] = version, _found(context, home, through)
    found: list[_Free] = kept[1]
    if not found:
        return None
    best = min(found, key=lambda free: abs(free.size - size))
    found.remove(best)
    return best.path


def _found(context: RunContext, home: SiteHome, through: int) -> list[_Free]:
    """One tree's files, the newest; older ones are removed, and the list forgets what is gone."""
    path, levels = _list(context, home), context.params.model.trees.max_depth
    try:
        with open(path, encoding="ascii") as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:
        return []
    needed, found = list[list[str]](), dict[str, _Free]()
    for number, release_id in (line for line in lines if len(line) == 2):
        if int(number) > through:
            needed.append([number, release_id])
            continue
        stored = os.path.join(home.releases, release_id)
        with suppress(OSError):
            state = os.stat(stored)
            if state.st_nlink == 1:
                found[release_id] = _Free(stored, state.st_size)
    newest = list(found)[-levels:]
    for release_id in found.keys() - set(newest):
        with suppress(OSError):
            os.unlink(found[release_id].path)
    lines = [*(["0", release_id] for release_id in newest), *needed]
    with open(path, "w", encoding="ascii") as file:  # in place: what a crash loses here only stays
        file.write("".join(f"{number} {release_id}\n" for number, release_id in lines))
    return [found[release_id] for release_id in newest]


def _list(context: RunContext, home: SiteHome) -> str:
    return os.path.join(home.releases, f".again-{context.federation}--{context.run}")
