"""Rounds of linear models: every site trains in every round."""

from __future__ import annotations

from collections.abc import Iterable

from folkmoot.params import Params
from folkmoot.plan import Step
from pipelines.plans.stages import one_round

__all__ = ["rounds"]


def rounds(params: Params) -> Iterable[Step]:
    """Steps of all rounds."""
    bodies = {"local_dp": "site.train_local_dp", "private": "site.train_private"}
    body = bodies.get(params.model.linear.strategy, "site.train_linear")
    for round in range(1, params.model.linear.rounds + 1):
        yield from one_round(
            params, round, body, params.federation.members, params.federation.required
        )
