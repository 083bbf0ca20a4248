"""The step ``join``: the site takes part in a round's live session, and its ledger says so beforehand.

What a session sends leaves through XGBoost's communicator and not through the release door.  So the
door is passed before: permissions and differencing are checked, and the entry is written, while
nothing has left yet.
"""

from __future__ import annotations

import numpy as np

from folkmoot.errors import PrivacyError
from folkmoot.exchange import ArtifactRef
from folkmoot.plan import RunContext, Step, keys
from folkmoot.updates import Part, Statistics
from site_tasks import permissions
from site_tasks.evaluate import load_model
from site_tasks.home import SiteHome
from site_tasks.prepared import hold_rows_limit, load_prepared
from site_tasks.release import release

__all__ = ["join"]


def join(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Release the site's word that it takes part in the round's session.

    Returns
    -------
    list of ArtifactRef
        ``round-RRR/statement-<site>`` with the part ``session``: number of boosting steps.

    Raises
    ------
    PrivacyError
        ``privacy.not-permitted``, such as where ``permissions.trackers`` does not name the tracker, or
        for fewer sites than ``permissions.minimum_contributors``; ``privacy.differencing``.
    RoundError
        ``round.diverged`` for a site with more rows than ``aggregation.rows_limit``.

    Notes
    -----
    Privacy cost: none is accounted for.  The session that follows sends this site's own histograms and
    quantile summaries exactly (``docs/threat-model.md``).
    """
    home = SiteHome.find(step.place, context.workspace)
    prepared = load_prepared(context, home)
    _, model_digest = load_model(context, keys.model(step.round - 1), prepared)
    hold_rows_limit(prepared, context, home)

    least = permissions.fewest_contributors(context, home)
    if len(context.params.federation.members) < least:
        raise PrivacyError(
            "privacy.not-permitted",
            f"Site {home.name}: permissions.minimum_contributors in site.toml asks for {least} sites, "
            "as the others could subtract their own part of a sum.",
            "Change the plan, or let the site's steward change site.toml.",
            site=home.name,
        )

    def make() -> dict[str, Part]:
        steps = np.asarray(context.params.model.trees.trees_per_round, np.int64)
        return {"session": Statistics({"steps": steps})}

    ref = release(
        step,
        context,
        home,
        key=step.outputs[0],
        inputs=[model_digest, prepared.digest],
        make=make,
        fingerprint=prepared.fingerprint,
    )
    return [ref]
