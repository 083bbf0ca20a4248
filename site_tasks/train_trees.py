"""A site's part of a tree round: boosting steps on top of the global booster, on its own rows."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import RoundError
from folkmoot.exchange import ArtifactRef
from folkmoot.models.tree_format import dump_trees, strip
from folkmoot.models.trees import to_scores
from folkmoot.plan import RunContext, Step
from folkmoot.updates import TreeUpdate
from folkmoot.wire import Artefact
from site_tasks.boosting import binned, grow
from site_tasks.home import SiteHome
from site_tasks.margins import margins, threads
from site_tasks.prepared import Prepared
from site_tasks.round_update import release_update

if TYPE_CHECKING:
    import xgboost

__all__ = ["scores", "train"]

Floats = NDArray[np.float64]


def train(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Grow ``trees_per_round`` boosting steps on the incoming global model and release them.

    Returns
    -------
    list of ArtifactRef
        ``round-RRR/update-<site>`` with the part ``update`` and, every
        ``aggregation.evaluate_every`` rounds, ``evaluation`` of the incoming model.

    Raises
    ------
    RoundError
        ``round.diverged`` where the incoming model's margins are not finite.
    ProtocolError
        Where the incoming model is missing, damaged or of another run or shape.

    Notes
    -----
    Whole trees leave the site: thresholds near its own values and leaves that may be the mean of a
    few rows.  No epsilon covers them (``privacy.mechanism`` must be ``none``); numbers of rows per
    node and gains are taken off (:mod:`folkmoot.models.tree_format`).
    """

    def update(home: SiteHome, prepared: Prepared, model: Artefact) -> TreeUpdate:
        return _update(step, context, home, prepared, model)

    return release_update(step, context, update)


def scores(
    model: Artefact,
    prepared: Prepared,
    part: Literal["train", "test"],
    context: RunContext,
    home: SiteHome,
) -> Floats:
    """Probabilities (n,) or (n, K), or predictions (n,), of a site's rows; they stay at the site.

    Complexity is that of :func:`site_tasks.margins.margins`.
    """
    found = margins(model, prepared, part, context, home)
    return to_scores(found, context.contract.task, model.meta["objective"])


def _update(
    step: Step, context: RunContext, home: SiteHome, prepared: Prepared, model: Artefact
) -> TreeUpdate:
    settings, task = context.params.model.trees, context.contract.task
    weights = prepared.weights("train")
    start = margins(model, prepared, "train", context, home)
    if not np.isfinite(start).all():
        raise RoundError(
            "round.diverged",
            f"The global model that comes into round {step.round} is not finite.",
            "Lower model.trees.eta, or set model.trees.leaf_weighting to rows.",
            site=home.name,
        )
    trees = grow(
        _binned(context, home, prepared),
        prepared.labels("train"),
        weights,
        start,
        settings,
        task,
        seed=_seed(settings.seed, step.round, home.name),
        n_threads=threads(context, prepared),
    )
    uniform = context.params.aggregation.weighting == "uniform"
    rows = float(prepared.rows["train"]) if weights is None else float(np.sum(weights))
    return TreeUpdate(dump_trees([strip(tree) for tree in trees]), 1.0 if uniform else rows)


def _binned(context: RunContext, home: SiteHome, prepared: Prepared) -> xgboost.DMatrix:
    """The site's binned training rows, kept between rounds by a process that lives that long."""
    max_bin = context.params.model.trees.max_bin
    name = ("binned", home.name)
    version = (prepared.digest, max_bin)
    if context.cache.get(name, (None, None))[0] != version:
        matrix = binned(prepared, max_bin, threads(context, prepared))
        context.cache[name] = (version, matrix)
    return context.cache[name][1]


def _seed(seed: int, round: int, site: str) -> int:
    """Seed of a site's sampling in a round: 31 bits, as XGBoost takes them."""
    found = hashlib.sha256(f"{seed}/{round}/{site}".encode()).digest()
    return int.from_bytes(found[:4], "little") >> 1
