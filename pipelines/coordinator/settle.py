"""Settle on one schema: the levels of least summed loss that all sites satisfy.

The code of a site bounds what it loses beyond its own optimum, so that a small site, whose losses are
large wherever it is, weighs no more than others.  Its limit of suppression could still pull everybody
to levels at which nothing is left to learn: where one site's limit alone costs the others more than
``anonymisation.pull_limit``, the site is left out as far as the quorum allows, or the run stops and
says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.agreement import BEYOND, OVER, STEPS, SchemaLattice, schema_digest
from folkmoot.errors import ProtocolError, RoundError
from folkmoot.exchange import ArtifactRef
from folkmoot.plan import RunContext, Step, keys
from folkmoot.updates import ReleasedUpdate, Statistics
from folkmoot.wire import canonical_json
from pipelines.coordinator.collect import collect

__all__ = ["Choice", "choose", "settle"]

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Choice:
    """A node, and what each site that stays is known to lose there.

    Parameters
    ----------
    node : int
        Number of the node.
    steps : dict of str to float
        By site, the most it loses beyond its own optimum (global certainty penalty).
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
    """
    lattice = SchemaLattice.of(context.contract, context.params.anonymisation)

    def fits(update: ReleasedUpdate, context: RunContext) -> None:
        _codes(update, lattice)

    collected = collect(step, context, "levels", keys.agreement, fits)
    codes = {update.site: _codes(update, lattice) for update in collected.updates}
    settings = context.params.anonymisation
    choice = choose(
        codes, lattice.heights(context.contract), settings.pull_limit, collected.required
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
    return [context.store.put(context.key(keys.SCHEMA), canonical_json(values))]


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
            steps = {s: _losses(codes[s])[found] for s in staying}
            return Choice(found, {s: float(x) for s, x in steps.items()}, tuple(left))
        if site is None or len(staying) - 1 < max(required, 1):
            raise _refused(site, pull, pull_limit)
        staying.remove(site)
        left.append(site)


def _best(codes: Mapping[str, Codes], sites: list[str], heights: NDArray[np.float64]) -> int | None:
    """Node of least summed loss within every site's limit, or None."""
    total = np.sum([_losses(codes[site]) for site in sites], axis=0)
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
            spared = [_losses(codes[o])[found] - _losses(codes[o])[without] for o in others]
            pull = float(np.mean(spared))
        if pull > worst[1]:
            worst = (site, pull)
    return worst


def _losses(codes: Codes) -> NDArray[np.float64]:
    """Most that a site loses at each node beyond its optimum; infinite where it does not satisfy."""
    steps = np.full(256, np.inf)
    steps[: len(STEPS)] = STEPS
    return np.asarray(steps[codes])


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
