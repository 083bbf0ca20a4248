"""A site's part of a histogram exchange: sums of gradients and Hessians by bin, or counts by cell.

What is asked for follows from the incoming model alone: while bin edges are sought, counts of rows
over public cells; then, level by level, the histograms of nodes of the trees that grow.  Whatever a
site keeps between tasks (bins, margins, gradients) it can make again from the model and its rows,
so that a task may be repeated anywhere and at any time and releases the same numbers.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError, RoundError
from folkmoot.exchange import ArtifactRef
from folkmoot.models.trees import outputs
from folkmoot.plan import RunContext, Step, keys
from folkmoot.trees import options
from folkmoot.updates import Part, Statistics
from folkmoot.wire import Artefact
from site_tasks.binned import BLOCK, bins_of, checked, nodes_of
from site_tasks.evaluate import counts_of, load_model
from site_tasks.home import SiteHome
from site_tasks.margins import Leaf, margins
from site_tasks.prepared import Prepared, hold_rows_limit, load_prepared
from site_tasks.release import release

if TYPE_CHECKING:
    from folkmoot.models.tree_format import Tree
    from folkmoot.trees.grow import Growing

__all__ = ["train"]

Array = NDArray[Any]
#: Sample weights are counted in steps of 2^-20 where quantiles are sought.
WEIGHT_STEPS = 2.0**20


def train(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Release the sums that the incoming model asks for.

    Returns
    -------
    list of ArtifactRef
        ``round-RRR/update-<site>`` with the part ``update``: ``counts`` (cells,) or ``sums``
        (nodes, bins, 2), with ``totals`` (K, 2) where a step begins, all int64; and where a step
        begins and ``aggregation.evaluate_every`` says so, ``evaluation`` of the incoming model.

    Raises
    ------
    RoundError
        ``round.tree`` for a site that had no part in the beginning of the trees that grow;
        ``round.diverged`` where gradients leave their public bounds.
    ProtocolError
        Where the incoming model is missing, damaged or of another run or shape.

    Notes
    -----
    Privacy cost: none is accounted for; sums leave exactly (``privacy.mechanism`` must be
    ``none``).  Without masks the coordinator sees each site's own.  O(rows · features).
    """
    home = SiteHome.find(step.place, context.workspace)
    prepared = load_prepared(context, home)
    model, model_digest = load_model(context, keys.model(step.round - 1), prepared)
    hold_rows_limit(prepared, context, home)
    growing = _growing(model, context, home)

    def make() -> dict[str, Part]:
        if growing is None:
            return {"update": Statistics({"counts": _counts(model, prepared, context, home)})}
        parts: dict[str, Part] = {
            "update": Statistics(_sums(growing, model, prepared, context, home))
        }
        if growing.level == 0 and _due(context, growing.step):
            parts["evaluation"] = counts_of(model, prepared, context, home)
        return parts

    ref = release(
        step,
        context,
        home,
        key=keys.update(step.round, home.name),
        inputs=[model_digest, prepared.digest],
        make=make,
        fingerprint=prepared.fingerprint,
        finished=0 if growing is None else growing.began,
    )
    return [ref]


def _due(context: RunContext, boosted: int) -> bool:
    """Whether the model after so many steps is evaluated: not the empty one, then every so often."""
    every = context.params.aggregation.evaluate_every
    return every > 0 and boosted > 0 and boosted % every == 0


def _growing(model: Artefact, context: RunContext, home: SiteHome) -> Growing | None:
    """The trees that grow, or None while edges are sought."""
    from folkmoot.trees.grow import Growing

    values = model.meta.get("growing")
    if values is None:
        return None
    try:
        growing = context.once("growing", model, lambda: Growing.from_dict(values))
    except (KeyError, TypeError, ValueError):
        raise _unfit("trees that grow in a way that this side does not know") from None
    if growing.level and home.name not in growing.sites:
        raise RoundError(
            "round.tree",
            f"Site {home.name} had no part in the root of the trees that grow.",
            "Nothing is to be done: it takes part again from the next tree on.",
            site=home.name,
        )
    return growing


def _counts(
    model: Artefact, prepared: Prepared, context: RunContext, home: SiteHome
) -> NDArray[np.int64]:
    """Rows, or their weights, per public cell of every feature."""
    from folkmoot.trees.histograms import bin_rows, count

    cuts = options.cuts_of(context, model)
    total = np.zeros(cuts.bins, np.int64)
    bound = options.bound_of_weights(context.contract)
    for features, _, weights in prepared.blocks("train", BLOCK):
        steps = None
        if weights is not None:
            steps = np.rint(np.minimum(weights, bound) / bound * WEIGHT_STEPS).astype(np.int64)
        total += count(bin_rows(features, cuts), cuts, steps)
    return total


def _sums(
    growing: Growing, model: Artefact, prepared: Prepared, context: RunContext, home: SiteHome
) -> dict[str, Array]:
    """Histograms of the wanted nodes; totals of the roots."""
    from folkmoot.trees.histograms import build, missing_code
    from folkmoot.trees.route import route_of

    cuts = options.cuts_of(context, model)
    if len(growing.trees) != outputs(model.meta):
        raise _unfit("another number of trees that grow")
    bins, missing = bins_of(cuts, prepared, context, home), missing_code(cuts)

    def leaf(k: int, tree: Tree) -> NDArray[np.int32] | None:
        """Leaf of a finished tree that every row of the training part is in."""
        route = context.once(("finished", k), tree, lambda: route_of(tree, cuts, missing))
        return None if route is None else nodes_of(k, route, bins, missing, context, home)

    gradient, hessian = _derivatives(growing.step, model, prepared, context, home, leaf)
    sums = np.zeros((len(growing.wanted), cuts.bins, 2), np.int64)
    first = 0
    try:
        routes = context.once(
            "routes", growing, lambda: [checked(t.route(missing), cuts) for t in growing.trees]
        )
    except (IndexError, ValueError):
        raise _unfit("trees that grow in a way that this side does not know") from None
    for k, (tree, route) in enumerate(zip(growing.trees, routes, strict=True)):
        wanted = [built[0] for built in tree.built]
        if not wanted:
            continue
        nodes = nodes_of(k, route, bins, missing, context, home)
        own = sums[first : first + len(wanted)]
        build(bins, cuts.first, missing, nodes, wanted, gradient[k], hessian[k], own)
        first += len(wanted)
    found: dict[str, Array] = {"sums": sums}
    if growing.level == 0:
        found["totals"] = np.stack([gradient.sum(axis=1), hessian.sum(axis=1)], axis=1)
    grid = options.grid_of(context)
    for array in found.values():
        grid.check(array)
    return found


def _derivatives(
    step: int,
    model: Artefact,
    prepared: Prepared,
    context: RunContext,
    home: SiteHome,
    leaf: Leaf,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Gradients and Hessians (K, n) on the grid, of the finished trees' margins; kept for the step."""
    from folkmoot.trees.objectives import derivatives, on_grid

    version = (prepared.digest, _trees_of(model, context), step)
    name = ("derivatives", home.name)
    kept = context.cache.get(name)
    if kept is not None and kept[0] == version:
        return kept[1], kept[2]
    contract, params = context.contract, context.params
    start = margins(model, prepared, "train", context, home, leaf)
    if not np.isfinite(start).all():
        raise _diverged(home)
    grid = options.grid_of(context)
    grad, hess = derivatives(
        options.objective_of(contract, params),
        start,
        prepared.labels("train"),
        prepared.weights("train"),
        max_delta_step=options.max_delta_step(contract, params),
    )
    bounds = options.bounds_of_derivatives(contract, params)
    for values, bound in ((grad, bounds[0]), (hess, bounds[1])):
        largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
        if not largest <= bound * (1 + 1e-6):
            raise _diverged(home)
    share = params.model.trees.subsample
    if share < 1:
        for k in range(len(grad)):
            out = _draws(params.model.trees.seed, step, k, home.name, grad.shape[1]) >= share
            grad[k, out] = hess[k, out] = 0.0
    found = on_grid(grad, grid.gradient), on_grid(hess, grid.hessian)
    context.cache[name] = (version, *found)
    return found


def _trees_of(model: Artefact, context: RunContext) -> bytes:
    """Digest of the finished trees, once for all sites that this process serves."""
    return context.once("trees", model, lambda: hashlib.sha256(model.arrays["trees"].data).digest())


def _draws(seed: int, step: int, tree: int, site: str, rows: int) -> NDArray[np.float64]:
    """One draw per row, from a public seed: the same in every try."""
    own = hashlib.sha256(f"{seed}/{step}/{tree}/{site}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(own[:16], "little"))).random(rows)


def _unfit(what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.mismatch",
        f"The global model has {what}.",
        "Check that coordinator and site run the same version of folkmoot.",
    )


def _diverged(home: SiteHome) -> RoundError:
    return RoundError(
        "round.diverged",
        "Gradients of the incoming model leave the bounds that the contract gives.",
        "Lower model.trees.eta, or widen the label's bounds in the contract.",
        site=home.name,
    )
