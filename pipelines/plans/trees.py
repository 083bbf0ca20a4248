"""Rounds of tree models: all sites grow trees, one after the other, or together in a live session."""

from __future__ import annotations

from collections.abc import Iterable

from folkmoot.params import Params
from folkmoot.params.private_trees import PRIVATE
from folkmoot.plan import COORDINATOR, Step, keys
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
    if params.model.trees.strategy == "xgboost_federated":
        for round in range(1, params.model.rounds + 1):
            yield from _session(params, round)
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


def _session(params: Params, round: int) -> Iterable[Step]:
    """A live session: sites join, then tracker and sites work at the same time, then the trees join."""
    stage, sites = f"round-{round:03d}", params.federation.members
    before = f"round-{round - 1:03d}/aggregate" if round > 1 else "round-000/initialise"
    model, quorum = (keys.model(round - 1),), params.federation.required
    for site in sites:
        yield Step(
            f"{stage}/join/{site}",
            "site.join",
            site,
            round,
            after=(before, f"prepare/encode/{site}"),
            inputs=model,
            outputs=(keys.statement(stage, site),),
        )
    joined = tuple(f"{stage}/join/{site}" for site in sites)
    yield Step(
        f"{stage}/track",
        "coordinator.track",
        COORDINATOR,
        round,
        after=joined,
        inputs=(*model, *(keys.statement(stage, site) for site in sites)),
        quorum=quorum,
        live=True,
    )
    for site in sites:
        yield Step(
            f"{stage}/train/{site}",
            "site.train_live",
            site,
            round,
            after=(f"{stage}/join/{site}",),
            inputs=model,
            outputs=(keys.update(round, site),),
            live=True,
        )
    yield Step(
        f"{stage}/aggregate",
        "coordinator.aggregate",
        COORDINATOR,
        round,
        after=(f"{stage}/track", *(f"{stage}/train/{site}" for site in sites)),
        inputs=(*model, *(keys.update(round, site) for site in sites)),
        outputs=(keys.model(round), keys.record(round)),
        quorum=quorum,
    )
