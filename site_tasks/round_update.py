"""A site's contribution to a round of training: the update, and an evaluation when one is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from folkmoot.exchange import ArtifactRef
from folkmoot.plan import RunContext, Step, keys
from folkmoot.privacy.events import Event
from folkmoot.updates import Part
from folkmoot.wire import Artefact
from site_tasks.evaluate import counts_of, due, load_model
from site_tasks.home import SiteHome
from site_tasks.prepared import Prepared, load_prepared
from site_tasks.release import release

__all__ = ["release_update"]


def release_update(
    step: Step,
    context: RunContext,
    update: Callable[[SiteHome, Prepared, Artefact], Part],
    *,
    costs: Mapping[str, Event] | None = None,
) -> list[ArtifactRef]:
    """Train from the incoming global model and release what came of it.

    Parameters
    ----------
    step : Step
        Of a round, at a site.
    context : RunContext
        The run.
    update : callable
        Makes the part ``update`` of home, prepared rows and incoming model; not called where the
        release was made before.
    costs : mapping of str to Event, optional
        See :func:`site_tasks.release.release`.

    Returns
    -------
    list of ArtifactRef
        ``round-RRR/update-<site>`` with the part ``update`` and, every
        ``aggregation.evaluate_every`` rounds, ``evaluation`` of the incoming model.

    Raises
    ------
    ProtocolError
        Where the incoming model is missing, damaged or of another run or shape.
    """
    home = SiteHome.find(step.place, context.workspace)
    prepared = load_prepared(context, home)
    model, model_digest = load_model(context, keys.model(step.round - 1), prepared)

    def make() -> dict[str, Part]:
        parts = {"update": update(home, prepared, model)}
        if due(context.params, step.round):
            parts["evaluation"] = counts_of(model, prepared, context, home)
        return parts

    return [
        release(
            step,
            context,
            home,
            key=keys.update(step.round, step.place),
            inputs=[model_digest, prepared.digest],
            make=make,
            fingerprint=prepared.fingerprint,
            costs=costs,
        )
    ]
