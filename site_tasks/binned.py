"""A site's rows in bins, and the nodes of the growing trees that they have come to.

All of it can be made again from the model and the rows: what is kept in ``context.cache`` and in the
site's private ``work/bins`` only saves time.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.plan import RunContext
from site_tasks.arrays import read_array
from site_tasks.home import SiteHome
from site_tasks.prepared import Prepared

if TYPE_CHECKING:
    from folkmoot.trees.cuts import Cuts
    from folkmoot.trees.route import Route

__all__ = ["BLOCK", "bins_of", "checked", "nodes_of"]

Array = NDArray[Any]
#: Rows that are put into bins at a time.
BLOCK = 65_536


def bins_of(cuts: Cuts, prepared: Prepared, context: RunContext, home: SiteHome) -> Array:
    """The site's rows in bins (n, d), made once per set of edges; the same object while it is kept."""
    from folkmoot.trees.histograms import bin_rows

    version, name = (prepared.digest, cuts.digest), ("bins", home.name)
    kept: tuple[object, Array] = context.cache.get(name, (None, np.zeros(0)))
    if kept[0] == version:
        return kept[1]
    path = home.work / "bins" / f"{prepared.digest[:32]}-{cuts.digest[:32]}.npy"
    try:
        found: Array = read_array(path, mapped=True)
    except (OSError, ValueError):
        blocks = [bin_rows(x, cuts) for x, _, _ in prepared.blocks("train", BLOCK)]
        found = np.concatenate(blocks)
        _keep(path, found)
    found = found.view(np.ndarray)
    context.cache[name] = (version, found)
    return found


def nodes_of(
    k: int, route: Route, bins: Array, missing: int, context: RunContext, home: SiteHome
) -> NDArray[np.int32]:
    """Node (n,) that every row has come to in a class's tree; O(n) per new level of it.

    Parameters
    ----------
    k : int
        The class.
    route : Route
        A checked one.
    bins : ndarray, shape (n, d)
        From :func:`bins_of`.
    missing : int
        Their code of missing values.
    """
    from folkmoot.trees.histograms import leaves

    name = ("nodes", home.name, k)
    of, before, found = context.cache.get(name, (None, None, None))
    further = of is bins and before is not None and _goes_on(k, route, before, context)
    nodes = leaves(bins, missing, route, found if further else None)
    context.cache[name] = (bins, route, nodes)
    return nodes


def _goes_on(k: int, route: Route, before: Route, context: RunContext) -> bool:
    """:meth:`Route.extends`, once for all sites whose rows have come the same way."""
    last = context.cache.get(("extended", k))
    if last is None or last[0] is not route or last[1] is not before:
        last = context.cache["extended", k] = route, before, route.extends(before)
    return bool(last[2])


def checked(route: Route, cuts: Cuts) -> Route:
    """A route whose nodes and features exist: the kernels follow it without looking.

    Raises
    ------
    ValueError
        For any other.
    """
    nodes = len(route.left)
    inner = route.left != -1
    each = np.arange(nodes)[inner]
    fit = (
        all(len(a) == nodes for a in (route.right, route.feature, route.place, route.default_left))
        and ((route.left[inner] > each) & (route.left[inner] < nodes)).all()
        and ((route.right[inner] > each) & (route.right[inner] < nodes)).all()
        and ((route.feature >= 0) & (route.feature < len(cuts.lowest))).all()
    )
    if not fit:
        raise ValueError
    return route


def _keep(path: Path, array: Array) -> None:
    """Write whole or not at all; other rows' and edges' bins are dropped."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
    others = sorted(path.parent.glob("*.npy"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in others[4:]:
        old.unlink(missing_ok=True)
