"""One booster from summed histograms: edges first, then its trees level by level.

Every exchange is one round.  The coordinator adds up the sites' whole numbers (or is handed their
sum under masks), and publishes with the next model what is asked for next; it keeps nothing that it
could not make again from the exchange store.

A tree is grown from the rows of the sites that had part in its root.  Where one of them is missing
later, what was summed so far is given up and the step begins again with the sites that are there:
no split is ever chosen from histograms of different rows.  Under masks that would open the missing
site's root, as the difference of two sums; the tree then ends at the level that all of them summed.
Either is counted in the records (``boosting.restarts``, ``boosting.cut_short``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError
from folkmoot.models.tree_format import TreeSpace, dump_trees, join_trees
from folkmoot.models.trees import outputs, tree_bytes
from folkmoot.plan import COORDINATOR, RunContext, Step, keys
from folkmoot.trees import cuts as edges
from folkmoot.trees import options
from folkmoot.trees.cuts import Cuts
from folkmoot.updates import ReleasedUpdate, Statistics
from folkmoot.wire import Artefact, decode
from pipelines.coordinator.aggregate import in_order
from pipelines.coordinator.aggregate.patience import cut_back, worse_for_long
from pipelines.coordinator.collect import collect

__all__ = ["aggregate", "opening"]

Arrays = dict[str, NDArray[Any]]
Sums = NDArray[np.int64]


def opening(model: Artefact, context: RunContext) -> Artefact:
    """The model of round 0 with the first cells to count, or with public edges and a root to grow.

    Parameters
    ----------
    model : Artefact
        Of no trees, with the federation's base score.
    """
    space = TreeSpace.of(context.contract, context.params)
    from folkmoot.features import feature_space

    features = feature_space(context.contract, context.params.anonymisation, "trees")
    trees = context.params.model.trees
    sought = trees.bin_edges == "sketch"
    cells = trees.max_bin * (edges.CELLS if sought else 1)
    cuts = edges.start(features.lower, features.upper, space.levels, cells)
    growing = None if sought else _begin(0, 0, outputs(model.meta))
    meta = {**model.meta, "growing": growing, "boosting": _status(0, 0, 0)}
    if meta["objective"] == "count:poisson":  # its margin is a logarithm
        meta["base_score"] = [max(value, 1e-6) for value in meta["base_score"]]
    return replace(model, meta=meta, arrays={**model.arrays, **cuts.to_arrays()})


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> tuple[Arrays, dict[str, Any]]:
    """Take one exchange into the model; O(sites · nodes · bins).

    Parameters
    ----------
    previous : Artefact
        Global model before the exchange: it says what was asked for.
    updates : sequence of ReleasedUpdate
        The sites' sums, or one opened sum of all of them.
    context : RunContext
        The run.
    round : int
        The exchange that is closed.

    Returns
    -------
    arrays : dict
        ``trees``, ``cuts.*`` and, per node of all trees, ``gain`` and ``hessian``.
    changes : dict
        ``growing`` (what is asked for next), ``boosting`` (steps done, level, restarts, why it
        stopped), ``trees`` (count), ``change`` (None).

    Raises
    ------
    ProtocolError
        ``protocol.mismatch``, naming the site whose sums have another shape than was asked for.
    """
    from folkmoot.trees.grow import Growing

    updates = in_order(updates)
    cuts = options.cuts_of(context, previous)
    if previous.meta["growing"] is None:
        return _sketched(previous, updates, cuts, context, round)
    growing = Growing.from_dict(previous.meta["growing"])
    status = dict(previous.meta["boosting"])
    taking_part = sorted(site for update in updates for site in update.sites)
    if growing.level == 0:
        found = _judged(previous, updates, context, status, growing.step)
        if found is not None:
            return found
        growing.sites = taking_part
    elif taking_part != growing.sites:
        updates = [update for update in updates if update.site in growing.sites]
        if sorted(site for update in updates for site in update.sites) != growing.sites:
            if context.params.aggregation.masked:
                status["cut_short"] += 1
                return _finished(previous, growing, cuts, context, round, status)
            status["restarts"] += 1
            again = _begin(growing.step, round, len(growing.trees))
            return _carried(previous), _changes(previous, again, {**status, "level": 0})
    sums = _total(updates, "sums", (len(growing.wanted), cuts.bins, 2), context)
    totals = None
    if growing.level == 0:
        totals = _total(updates, "totals", (len(growing.trees), 2), context)
    before = _kept(context, round - 1)
    if growing.level and before is None:
        before = _again(growing, context, round - 1)
    return _advanced(previous, growing, sums, totals, before, cuts, context, round, status)


def _advanced(
    previous: Artefact,
    growing: Any,
    sums: Sums,
    totals: Sums | None,
    before: Sums | None,
    cuts: Cuts,
    context: RunContext,
    round: int,
    status: dict[str, Any],
) -> tuple[Arrays, dict[str, Any]]:
    from folkmoot.trees.grow import advance, complete

    contract, params = context.contract, context.params
    nodes, full = complete(growing, sums, before)
    growing = advance(
        growing,
        nodes,
        full,
        cuts,
        options.grid_of(context),
        context.once("rules", params, lambda: options.rules_of(contract, params)),
        context.once("columns", params, lambda: options.columns_of(contract, params)),
        options.eta_of(params, growing.step),
        params.model.trees.max_depth,
        totals,
    )
    if growing.wanted:
        context.cache["histograms"] = (context.run, round, full)
        return _carried(previous), _changes(
            previous, growing.to_dict(), {**status, "level": growing.level}
        )
    return _finished(previous, growing, cuts, context, round, status)


def _finished(
    previous: Artefact,
    growing: Any,
    cuts: Cuts,
    context: RunContext,
    round: int,
    status: dict[str, Any],
) -> tuple[Arrays, dict[str, Any]]:
    """The step's trees as they stand join the model, and the next step's roots are asked for."""
    from folkmoot.trees.grow import finished

    params = context.params
    context.cache.pop("histograms", None)
    arrays = _carried(previous)
    trees, figures = finished(growing, cuts)
    data = join_trees(tree_bytes(previous), dump_trees(trees))
    arrays["trees"] = np.frombuffer(data, np.uint8)
    unit = options.grid_of(context).units[1]
    gains = [np.asarray(f["gain"], np.float32) for f in figures]
    covers = [np.asarray(f["hessian"]) * unit for f in figures]
    arrays["gain"] = np.concatenate([_figures(previous, "gain"), *gains])
    arrays["hessian"] = np.concatenate(
        [_figures(previous, "hessian"), *(c.astype(np.float32) for c in covers)]
    )
    steps = growing.step + 1
    status = {**status, "steps": steps, "level": 0}
    if steps == params.model.trees.rounds:
        status["stop"] = "complete"
    follow = _begin(steps, round, len(growing.trees))
    changes = _changes(previous, follow, status)
    return arrays, {**changes, "trees": int(previous.meta["trees"]) + len(trees)}


def _sketched(
    previous: Artefact,
    updates: Sequence[ReleasedUpdate],
    cuts: Cuts,
    context: RunContext,
    round: int,
) -> tuple[Arrays, dict[str, Any]]:
    """Finer cells, or after the last count the edges themselves."""
    trees = context.params.model.trees
    counts = _total(updates, "counts", (cuts.bins,), context)
    status, growing = dict(previous.meta["boosting"]), None
    status["sketches"] += 1
    if status["sketches"] < trees.sketch_exchanges:
        cuts = edges.refine(cuts, counts, edges.CELLS * trees.max_bin)
    else:
        cuts = edges.choose(cuts, counts, trees.max_bin)
        growing = _begin(0, round, outputs(previous.meta))
    arrays = {"trees": previous.arrays["trees"], **cuts.to_arrays()}
    return arrays, _changes(previous, growing, status)


def _judged(
    previous: Artefact,
    updates: Sequence[ReleasedUpdate],
    context: RunContext,
    status: dict[str, Any],
    step: int,
) -> tuple[Arrays, dict[str, Any]] | None:
    """Early stopping: where the held-out loss has not fallen for long, the best model, else None."""
    if not worse_for_long(updates, context, status, step):
        return None
    best = status["best"]
    kept, nodes, trees = cut_back(previous, best[0])
    arrays = _carried(previous)
    arrays["trees"] = np.frombuffer(trees, np.uint8)
    for figure in ("gain", "hessian"):
        arrays[figure] = arrays[figure][:nodes]
    context.cache.pop("histograms", None)
    status = {**status, "steps": best[0], "level": 0, "stop": "early_stopping"}
    changes = _changes(previous, None, status)
    return arrays, {**changes, "trees": kept}


def _total(
    updates: Sequence[ReleasedUpdate], name: str, shape: tuple[int, ...], context: RunContext
) -> Sums:
    """The federation's sum of one array; whole numbers, so in any order."""
    from folkmoot.trees.histograms import add

    grid = options.grid_of(context)
    total = np.zeros(shape, np.int64)
    for update in updates:
        part = update.parts.get("update")
        array = part.arrays.get(name) if isinstance(part, Statistics) else None
        fit = array is not None and array.shape == shape and array.dtype == np.int64
        most = grid.most * len(update.sites)
        if not fit or array is None or add(total, array) > most:
            raise ProtocolError(
                "protocol.mismatch",
                f"The update of site {update.site} holds no {name} as the model asked for.",
                "Check that the site runs the same version of folkmoot, with the same params.",
                site=update.site,
            )
    return total


def _kept(context: RunContext, round: int) -> Sums | None:
    """Histograms of all nodes of the level before, where this process saw them."""
    run, last, found = context.cache.get("histograms", (None, None, None))
    return found if (run, last) == (context.run, round) else None


def _again(growing: Any, context: RunContext, last: int) -> Sums | None:
    """The same from what the sites published since the trees' roots; O(levels · sites · bins)."""
    from folkmoot.trees.grow import Growing, complete

    found: Sums | None = None
    for round in range(growing.began + 1, last + 1):
        asked = _model(context, round - 1)
        cuts = options.cuts_of(context, asked)
        level = Growing.from_dict(asked.meta["growing"])
        used = set(_model(context, round).meta["parents"].values())
        updates = _contributions(context, round, used, growing.sites)
        sums = _total(updates, "sums", (len(level.wanted), cuts.bins, 2), context)
        _, found = complete(level, sums, found)
    return found


def _contributions(
    context: RunContext, round: int, used: set[str], sites: Sequence[str]
) -> list[ReleasedUpdate]:
    """What an earlier exchange was closed with, no more and no less."""
    from pipelines.coordinator.aggregate.secure_sum import gather
    from pipelines.coordinator.fits import check_update

    stage = f"round-{round:03d}"
    masked = context.params.aggregation.masked
    task = "unmask" if masked else "train"
    after = tuple(f"{stage}/{task}/{site}" for site in context.params.federation.members)
    step = Step(f"{stage}/aggregate", "coordinator.aggregate", COORDINATOR, round, after, quorum=1)
    if masked:
        return gather(step, context).contributions
    found = collect(step, context, task, lambda site: keys.update(round, site), check_update)
    updates = [u for u in found.updates if u.digest in used and u.site in sites]
    if [u.site for u in updates] != list(sites):
        raise ProtocolError(
            "protocol.missing",
            f"An update of {stage}, which the trees that grow rest on, is gone.",
            "Restore the exchange store, or start a new run.",
        )
    return updates


def _model(context: RunContext, round: int) -> Artefact:
    return decode(context.store.get(context.key(keys.model(round))), kind="model")


def _begin(step: int, round: int, classes: int) -> dict[str, Any]:
    from folkmoot.trees.grow import begin

    return begin(step, classes, began=round).to_dict()


def _status(steps: int, level: int, sketches: int) -> dict[str, Any]:
    """How far training is; part of the round's record."""
    return {
        "steps": steps,
        "level": level,
        "sketches": sketches,
        "restarts": 0,
        "cut_short": 0,
        "best": None,
        "stop": None,
    }


def _carried(previous: Artefact) -> Arrays:
    """Arrays that an exchange within a tree leaves as they are."""
    return {
        **dict(previous.arrays),
        **{name: _figures(previous, name) for name in ("gain", "hessian")},
    }


def _figures(previous: Artefact, name: str) -> NDArray[np.float32]:
    return np.asarray(previous.arrays.get(name, np.zeros(0, np.float32)))


def _changes(
    previous: Artefact, growing: Mapping[str, Any] | None, status: Mapping[str, Any]
) -> dict[str, Any]:
    trees = int(previous.meta["trees"])
    return {"growing": growing, "boosting": dict(status), "trees": trees, "change": None}
