"""SCAFFOLD's site control variates: kept privately at the site, one file per run and round.

A retry of round r reads what round r - 1 left and writes its own file again, so it gives the same
update.  A variate counts only if the coordinator used the update it belongs to: where a site was
late, its next round goes back to the last one that the global model really contains.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from folkmoot.plan import RunContext, keys
from folkmoot.wire import Artefact, decode
from site_tasks import orders
from site_tasks.arrays import read_array
from site_tasks.home import SiteHome

__all__ = ["load_control", "save_control"]

Floats = NDArray[np.float64]


def load_control(
    context: RunContext, home: SiteHome, round: int, incoming: Artefact, shape: tuple[int, ...]
) -> Floats:
    """The site's control variate at the beginning of a round; zeros before its first one.

    Parameters
    ----------
    context : RunContext
        The run.
    home : SiteHome
        The site's own folder.
    round : int
        The round that begins.
    incoming : Artefact
        Global model of the round before.
    shape : tuple of int
        (K, d + 1).
    """
    for earlier in range(round - 1, 0, -1):
        path = _path(context, home, earlier)
        if not path.exists():
            continue
        model = incoming
        if earlier != round - 1:
            model = decode(orders.read(context, keys.model(earlier)), kind="model")
        if home.name in model.meta["participants"]:
            control: Floats = read_array(path)
            if control.shape == shape:
                return control
    return np.zeros(shape)


def save_control(context: RunContext, home: SiteHome, round: int, control: Floats) -> None:
    """Keep the variate that a round ended with; whole or not at all, for the site's user alone."""
    path = _path(context, home, round)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, control, allow_pickle=False)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _path(context: RunContext, home: SiteHome, round: int) -> Path:
    folder = f"{context.federation}--{context.run}"
    return home.work / "scaffold" / folder / f"round-{round:03d}.npy"
