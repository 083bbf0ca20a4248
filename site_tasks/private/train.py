"""A site's part of a private round: one sum over clipped records, noised on its way out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import PrivacyError
from folkmoot.exchange import ArtifactRef
from folkmoot.models.design import Design
from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext, Step, keys
from folkmoot.privacy.bins import Layout
from folkmoot.privacy.linear_schedule import row_norm
from folkmoot.privacy.planned import Release, Schedule
from folkmoot.privacy.training import charges, clip_of, schedule
from folkmoot.wire import Artefact
from site_tasks.evaluate import check_shape, load_model
from site_tasks.home import SiteHome
from site_tasks.prepared import Prepared, load_prepared
from site_tasks.private.histograms import histogram_sum
from site_tasks.private.records import gradient_sum, gram_sum, records_of
from site_tasks.privatise import ClippedSum
from site_tasks.release import release

__all__ = ["demand_accounted", "train"]

Integers = NDArray[np.int64]


def train(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Sum what the round's release asks of the site's records, and release it under noise.

    Returns
    -------
    list of ArtifactRef
        ``round-RRR/update-<site>`` with the part ``update``: the array ``sum``, whole steps.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` for sample weights and for preparation that lets one record move more
        rows than the plan accounts for; ``privacy.ceiling`` before anything is drawn.

    Notes
    -----
    Privacy cost: the event of the round's release (:func:`folkmoot.privacy.training.schedule`).
    """
    home = SiteHome.find(step.place, context.workspace)
    prepared = load_prepared(context, home)
    model, model_digest = load_model(context, keys.model(step.round - 1), prepared)
    planned = schedule(context.params, context.contract)
    wanted = planned.of(step.round)
    demand_accounted(prepared, wanted, context, home)

    def make() -> dict[str, ClippedSum]:
        values = _sum(planned, wanted, step.round, prepared, model, context, home)
        return {"update": ClippedSum(values, wanted, planned.share)}

    return [
        release(
            step,
            context,
            home,
            key=keys.update(step.round, home.name),
            inputs=[model_digest, prepared.digest, repr(wanted)],
            make=make,
            fingerprint=prepared.fingerprint,
            costs=charges(context.params, context.contract, step.round),
        )
    ]


def _sum(
    planned: Schedule,
    wanted: Release,
    round: int,
    prepared: Prepared,
    model: Artefact,
    context: RunContext,
    home: SiteHome,
) -> Integers:
    contract, site = context.contract, home.name
    if context.params.model.kind == "trees":
        from site_tasks.private.trees import as_linear_rows, tree_sum

        if planned.method == "leaves":
            return tree_sum(wanted, round, prepared, model, context, home)
        prepared = as_linear_rows(prepared, context)
        if round > 1:
            check_shape(model, prepared, context)
    if wanted.kind == "histogram":
        return histogram_sum(prepared, Layout.of(contract, context.params.anonymisation))
    centre = None
    if planned.method == "moments":
        low, high = contract.label.bounds or (-1.0, 1.0)
        centre = (low + high) / 2, (high - low) / 2
    norm = row_norm(planned.method, context.params, contract)
    records = records_of(prepared, Design.of(model.arrays), norm, context, site, centre)
    if wanted.kind == "gram":
        return gram_sum(records)
    clip = clip_of(model, wanted) if wanted.counted else wanted.clip
    return gradient_sum(contract.task, parameters(model), records, clip, wanted.counted)


def demand_accounted(
    prepared: Prepared, wanted: Release, context: RunContext, home: SiteHome
) -> None:
    """Refuse a release whose noise or sensitivity would not be what the plan charges for.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted`` or ``privacy.mechanism``.
    """
    _trusted(context, home)
    _accounted(prepared, wanted, home)


def _trusted(context: RunContext, home: SiteHome) -> None:
    """Noise that others add protects a site's records only where the site trusts them with it."""
    privacy, settings = context.params.privacy, home.settings
    if privacy.noise == "coordinator" and not (
        settings.simulated or settings.permissions.central_noise
    ):
        raise PrivacyError(
            "privacy.not-permitted",
            f"Site {home.name}: permissions.central_noise in site.toml does not let exact sums go to "
            "a coordinator that adds the noise.",
            "Plan privacy.noise site or distributed, or let the site's steward change site.toml.",
            site=home.name,
        )
    if privacy.simulate_sums and not settings.simulated:
        raise PrivacyError(
            "privacy.not-permitted",
            f"Site {home.name} is no simulation: its share of the noise must not leave without "
            "secure sums.",
            "Set aggregation.protection to masks, or privacy.noise to site.",
            site=home.name,
        )


def _accounted(prepared: Prepared, wanted: Release, home: SiteHome) -> None:
    if prepared.weights("train") is not None:
        raise PrivacyError(
            "privacy.mechanism",
            "Sample weights would multiply what one record adds to a sum.",
            "Drop the weight column from the contract.",
            site=home.name,
        )
    if prepared.stability * wanted.norm > wanted.sensitivity * (1 + 1e-12):
        raise PrivacyError(
            "privacy.mechanism",
            "Preparation lets one record move more rows than the plan's sensitivity accounts for.",
            "Set anonymisation.k to 1, or let the plan know the preparation.",
            site=home.name,
        )
