"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378): control variates against client drift.

With ``p`` a site's share of the weight of all member sites and S those that took part::

    w = w + server_learning_rate · weighted mean over S of delta
    c = c + sum over S of p · change of the site's control variate

which for uniform weights is the paper's ``c + |S|/N · mean``.  Under masks the weights of all members
together come from the summed statistics, those of S from the summed updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from folkmoot.models.linear import parameters
from folkmoot.plan import RunContext
from folkmoot.updates import ReleasedUpdate, SummedUpdate
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import in_order
from pipelines.coordinator.aggregate.linear import array_of, change_of, pack

__all__ = ["aggregate"]


def aggregate(
    previous: Artefact, updates: Sequence[ReleasedUpdate], context: RunContext, round: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Move model and shared control variate; O(sites · K · d).

    Returns
    -------
    arrays, meta : dict, dict
        The next model's arrays with ``state.control`` (K, d + 1); ``change``, and ``weights``
        with those of sites that were not there when the run began.
    """
    ordered = in_order(updates)
    before = parameters(previous)
    weights = dict(previous.meta["weights"])
    control = previous.arrays["state.control"].copy()
    if isinstance(ordered[0], SummedUpdate):
        # The weighted mean over S times S's share of the weight: the same sum, of one term.
        summed = ordered[0].parts["update"].weight
        total = max(sum(weights[site] for site in sorted(weights)), summed)
        shares = {ordered[0].site: summed / total}
    else:
        weights = {u.site: u.parts["update"].weight for u in ordered} | weights
        total = sum(weights[site] for site in sorted(weights))
        shares = {u.site: weights[u.site] / total for u in ordered}
    for update in ordered:
        control += shares[update.site] * array_of(update, "update", "control", before.shape)
    rate = context.params.model.linear.server_learning_rate or 1.0
    delta, standing = change_of(ordered, before.shape, previous, context)
    after = before + rate * delta
    return pack(previous, after, {"control": control}, {"weights": weights, **standing})
