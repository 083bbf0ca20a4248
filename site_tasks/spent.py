"""Stored sums of finished trees: their files take those of the next tree.

Sums of histograms can be made again from model and rows, and nobody asks for a finished tree's.  A
site would keep megabytes of every tree for ever; and to find new pages for as many bytes took the
system a quarter of a tree's time (``benchmarks/exact_trees.py``).  So a tree's files are written to
again, and no more than two trees' lie at the site.  A file that has a second name, as in an exchange
store that is a folder and keeps them, is left alone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from folkmoot.privacy.ledger import Ledger
from folkmoot.trees.options import SUMMED

if TYPE_CHECKING:
    from folkmoot.plan import RunContext
    from site_tasks.home import SiteHome

__all__ = ["spent_file"]


@dataclass(frozen=True)
class _Spent:
    path: str
    size: int


def spent_file(
    context: RunContext, home: SiteHome, ledger: Ledger, through: int, size: int
) -> str | None:
    """A stored release that is not needed any more, the nearest in size; never told twice.

    Parameters
    ----------
    context, home : RunContext, SiteHome
        The run and the site.
    ledger : Ledger
        Says which releases are the run's, and that they left without a cost.
    through : int
        Last round that nobody asks for again.
    size : int
        Bytes that are to be written.

    Returns
    -------
    str or None
        Its path.  Whoever writes to it renames it first, and then looks whether it has one name.

    Notes
    -----
    Privacy cost: none.  O(levels of a tree), of which the ledger is read once per tree.
    """
    if through < 1 or context.params.model.trees.strategy != SUMMED:
        return None
    name, version = ("spent", home.name), (context.run, through)
    kept = context.cache.get(name)
    if kept is None or kept[0] != version:
        kept = context.cache[name] = version, _found(context, home, ledger, through)
    found: list[_Spent] = kept[1]
    if not found:
        return None
    best = min(found, key=lambda spent: abs(spent.size - size))
    found.remove(best)
    return best.path


def _found(context: RunContext, home: SiteHome, ledger: Ledger, through: int) -> list[_Spent]:
    """The last tree's files; those of the tree before that nobody wrote to are removed."""
    levels = context.params.model.trees.max_depth
    found = []
    for entry in ledger.newest(3 * levels):
        if entry.kind != "commit" or entry.attempt or entry.content["run"] != context.run:
            continue
        trained = str(entry.content["step"]).split("/")[1:2] == ["train"]
        if not trained or entry.content["round"] > through:
            continue
        path = os.path.join(home.releases, entry.release_id)
        with suppress(OSError):
            state = os.stat(path)
            if state.st_nlink == 1:
                found.append(_Spent(path, state.st_size))
    for old in found[levels:]:
        with suppress(OSError):
            os.unlink(old.path)
    return found[:levels]
