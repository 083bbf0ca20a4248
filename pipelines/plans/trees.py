"""Rounds of tree models: all sites grow trees (bagging), or one site after the other (cyclic)."""

from __future__ import annotations

from collections.abc import Iterable

from folkmoot.params import Params
from folkmoot.params.private_trees import PRIVATE
from folkmoot.plan import Step
from pipelines.plans.stages import one_round

__all__ = ["rounds"]


def rounds(params: Params) -> Iterable[Step]:
    """Steps of all rounds; in ``cyclic`` round r belongs to site (r - 1) mod n of the sorted names."""
    members = params.federation.members
    if params.model.trees.strategy == "summed_histograms":  # a round is one exchange of sums
        for round in range(1, params.model.rounds + 1):
            yield from one_round(
                params, round, "site.train_histograms", members, params.federation.required
            )
        return
    if params.model.trees.strategy in PRIVATE:
        local = params.model.trees.strategy == "local_forests"
        body = "site.train_forest" if local else "site.train_private"
        for round in range(1, params.model.trees.rounds + 1):
            yield from one_round(params, round, body, members, params.federation.required)
        return
    for round in range(1, params.model.trees.rounds + 1):
        if params.model.trees.strategy == "cyclic":
            # A site that fails is passed over: the round then keeps the model as it is.
            quorum = 1 if params.federation.required == len(members) else 0
            sites: tuple[str, ...] = (members[(round - 1) % len(members)],)
        else:
            quorum, sites = params.federation.required, members
        yield from one_round(params, round, "site.train_trees", sites, quorum)
