"""Settle on one schema: the levels of least summed loss that all sites satisfy.

The code of a site bounds what it loses beyond its own optimum, so that a small site, whose losses are
large wherever it is, weighs no more than others.  Its limit of suppression could still pull everybody
to levels at which nothing is left to learn: where one site's limit alone costs the others more than
``anonymisation.pull_limit``, the site is left out as far as the quorum allows, or the run stops and
says why.

Under masks the coordinator sees sums over the sites alone: the choice is the same, and whom a limit
belongs to is unknown, so that limits which pull too far stop the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.agreement import (
    BEYOND,
    OVER,
    STEPS,
    UNIT,
    SchemaLattice,
    losses_of,
    schema_digest,
)
from folkmoot.errors import ProtocolError, RoundError
from folkmoot.exchange import ArtifactRef
from folkmoot.plan import RunContext, Step, keys
from folkmoot.updates import ReleasedUpdate, Statistics
from folkmoot.wire import canonical_json
from pipelines.coordinator import orders
from pipelines.coordinator.aggregate.secure_sum import gather
from pipelines.coordinator.collect import Collected, collect

__all__ = ["Choice", "choose", "choose_summed", "settle"]

Codes = NDArray[np.uint8]
Votes = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Choice:
    """A node, and what each site that stays is known to lose there.

    Parameters
    ----------
    node : int
        Number of the node.
    steps : dict of str to float
        By site, the most it loses beyond its own optimum (global certainty penalty); under masks
        the mean of all of them, by the name ``*``.
    left_out : tuple of str
        Sites that were left out, because their limit would have cost the others too much.
    """

    node: int
    steps: dict[str, float]
    left_out: tuple[str, ...]


def settle(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Publish the levels that the sites settled on.

    Raises
    ------
    RoundError
        ``round.quorum`` where too few sites said anything, ``round.schema`` where no levels suit.
    SecureError
        As :func:`pipelines.coordinator.aggregate.secure_sum.gather`, under masks.
    """
    settings = context.params.anonymisation
    lattice = SchemaLattice.of(context.contract, settings)
    collected, choice = (_summed if context.params.aggregation.masked else _single)(
        step, context, lattice
    )
    levels = lattice.levels(choice.node)
    chosen = settings.model_copy(update={"settled": levels})
    values: dict[str, Any] = {
        "levels": levels,
        "schema": schema_digest(context.contract, chosen),
        "loss_beyond_optimum": choice.steps,
        "left_out": list(choice.left_out),
        "missing": {**collected.missing, **dict.fromkeys(choice.left_out, "round.schema")},
    }
    return [orders.publish(context, keys.SCHEMA, canonical_json(values))]


def _single(step: Step, context: RunContext, lattice: SchemaLattice) -> tuple[Collected, Choice]:
    def fits(update: ReleasedUpdate, context: RunContext) -> None:
        _codes(update, lattice)

    collected = collect(step, context, "levels", keys.agreement, fits)
    codes = {update.site: _codes(update, lattice) for update in collected.updates}
    heights = lattice.heights(context.contract)
    limit = context.params.anonymisation.pull_limit
    return collected, choose(codes, heights, limit, collected.required)


def _summed(step: Step, context: RunContext, lattice: SchemaLattice) -> tuple[Collected, Choice]:
    collected = gather(step, context)
    sites = len(collected.updates)
    found = _votes(collected, lattice, sites)
    heights = lattice.heights(context.contract)
    limit = context.params.anonymisation.pull_limit
    return collected, choose_summed(found, sites, heights, limit)


def choose(
    codes: Mapping[str, Codes], heights: NDArray[np.float64], pull_limit: float, required: int
) -> Choice:
    """The node of least summed loss that all sites satisfy, guarded against one site's pull.

    Parameters
    ----------
    codes : mapping of str to ndarray of uint8, each of shape (nodes,)
        What each site said.
    heights : ndarray of float64, shape (nodes,)
        Public losses, which break ties.
    pull_limit : float
        Most that one site's limit may cost each other site on average.
    required : int
        Sites that have to stay.

    Raises
    ------
    RoundError
        ``round.schema``, naming the site whose limit stands in the way, or none where several do.
    """
    staying = sorted(codes)
    left: list[str] = []
    while True:
        found = _best(codes, staying, heights)
        site, pull = _strongest(codes, staying, heights, found)
        if found is not None and pull <= pull_limit:
            steps = {s: losses_of(codes[s])[found] for s in staying}
            return Choice(found, {s: float(x) for s, x in steps.items()}, tuple(left))
        if site is None or len(staying) - 1 < max(required, 1):
            raise _refused(site, pull, pull_limit)
        staying.remove(site)
        left.append(site)


def choose_summed(
    votes: Votes, sites: int, heights: NDArray[np.float64], pull_limit: float
) -> Choice:
    """The node that :func:`choose` takes, from sums alone.

    Parameters
    ----------
    votes : mapping of str to ndarray of int64, each of shape (nodes,)
        Sums over the sites of :func:`folkmoot.agreement.votes`.
    sites : int
        How many they are of.
    heights : ndarray of float64, shape (nodes,)
        Public losses, which break ties.
    pull_limit : float
        Most that the limits of all sites together may cost a site on average, and most that a single
        site may cost each other one as far as sums can tell.

    Raises
    ------
    RoundError
        ``round.schema``.  No site is named or left out: sums do not tell which it would be.
    """
    able, total = votes["able"], votes["loss"] * UNIT
    suits = np.where((able == sites) & (votes["within"] == sites), total, np.inf)
    least = suits.min()
    free = np.where(able == sites, total, np.inf).min()
    if not np.isfinite(least):
        raise _refused_summed(sites if np.isfinite(free) else None, np.inf, pull_limit)
    pull = (least - free) / sites
    if sites > 1:
        # Where all but one could live, that one's loss at the chosen node is at most the last step.
        others = np.where(able == sites - 1, total, np.inf).min()
        pull = max(pull, (least - STEPS[-1] - others) / (sites - 1))
    if pull > pull_limit + 1e-12:
        raise _refused_summed(sites, pull, pull_limit)
    tied = np.flatnonzero(suits <= least + 1e-12)
    node = int(tied[np.argmin(heights[tied])])
    return Choice(node, {"*": float(least / sites)}, ())


def _best(codes: Mapping[str, Codes], sites: list[str], heights: NDArray[np.float64]) -> int | None:
    """Node of least summed loss within every site's limit, or None."""
    total = np.sum([losses_of(codes[site]) for site in sites], axis=0)
    least = total.min()
    if not np.isfinite(least):
        return None
    tied = np.flatnonzero(total <= least + 1e-12)
    return int(tied[np.argmin(heights[tied])])


def _strongest(
    codes: Mapping[str, Codes],
    sites: list[str],
    heights: NDArray[np.float64],
    found: int | None,
) -> tuple[str | None, float]:
    """The site whose limit costs the others most on average, and what it costs them."""
    worst: tuple[str | None, float] = (None, 0.0)
    for site in sites if len(sites) > 1 else ():
        others = [other for other in sites if other != site]
        without = _best(codes, others, heights)
        if without is None:
            continue
        if found is None:
            pull = np.inf
        else:
            spared = [losses_of(codes[o])[found] - losses_of(codes[o])[without] for o in others]
            pull = float(np.mean(spared))
        if pull > worst[1]:
            worst = (site, pull)
    return worst


def _votes(collected: Collected, lattice: SchemaLattice, sites: int) -> Votes:
    (summed,) = collected.contributions
    part = summed.parts.get("agreement")
    arrays = part.arrays if isinstance(part, Statistics) else {}
    most = {"able": sites, "within": sites, "loss": sites * round(STEPS[-1] / UNIT)}
    fit = summed.parts.keys() == {"agreement"} and arrays.keys() == most.keys()
    if not fit or not all(
        array.dtype == np.int64
        and array.shape == (lattice.size,)
        and ((array >= 0) & (array <= most[name])).all()
        for name, array in arrays.items()
    ):
        raise ProtocolError(
            "protocol.mismatch",
            "The sum of what the sites say about levels does not fit the run's lattice.",
            "Check that all sides run the same version of folkmoot.",
        )
    return arrays


def _codes(update: ReleasedUpdate, lattice: SchemaLattice) -> Codes:
    part = update.parts.get("agreement")
    codes = part.arrays.get("codes") if isinstance(part, Statistics) else None
    known = [*range(len(STEPS)), *(OVER | step for step in range(len(STEPS))), BEYOND]
    if (
        update.parts.keys() != {"agreement"}
        or codes is None
        or codes.dtype != np.uint8
        or codes.shape != (lattice.size,)
        or not np.isin(codes, known).all()
    ):
        raise ProtocolError(
            "protocol.mismatch",
            f"What site {update.site} says about levels does not fit the run's lattice.",
            "Check that both sides run the same version of folkmoot.",
            site=update.site,
        )
    return codes


def _refused(site: str | None, pull: float, limit: float) -> RoundError:
    if site is None:
        return RoundError(
            "round.schema",
            "No levels suit all sites within their limits of suppression.",
            "Raise anonymisation.suppression_limit (1 leaves it free), lower anonymisation.k, or use "
            "recoding local. Sites that released before keep to their levels: "
            "anonymisation.pseudonym_epoch begins a new series.",
        )
    what = (
        f"would cost each other site {pull:.1%} of its information on average, more than "
        f"anonymisation.pull_limit allows ({limit:.1%})"
        if np.isfinite(pull)
        else "leaves no levels that suit all sites"
    )
    return RoundError(
        "round.schema",
        f"The limit of suppression of site {site} {what}.",
        "Raise anonymisation.suppression_limit (1 leaves it free), lower federation.quorum so that the "
        "site may be left out, or use recoding local.",
    )


def _refused_summed(sites: int | None, pull: float, limit: float) -> RoundError:
    if sites is None or not np.isfinite(pull):
        return _refused(None, pull, limit)
    return RoundError(
        "round.schema",
        f"Limits of suppression would cost each of {sites} sites {pull:.1%} of its information on "
        f"average, more than anonymisation.pull_limit allows ({limit:.1%}). Under masks nobody can "
        "tell whose limits they are.",
        "Raise anonymisation.suppression_limit (1 leaves it free), leave out a site that is much "
        "smaller than the others (federation.sites), or use recoding local.",
    )
