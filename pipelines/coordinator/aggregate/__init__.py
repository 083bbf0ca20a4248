"""How released updates become the next global model: one module per family of strategies.

Each module offers ``initial`` or ``aggregate``; both take only ``ReleasedUpdate``s and sort them by
site name, so that floating-point sums reproduce.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from folkmoot.errors import PrivacyError
from folkmoot.plan import RunContext
from folkmoot.updates import ReleasedUpdate
from folkmoot.wire import Artefact

__all__ = ["aggregator", "in_order", "initialiser"]

Arrays = Mapping[str, Any]
Aggregate = Callable[
    [Artefact, Sequence[ReleasedUpdate], RunContext, int], tuple[Arrays, Mapping[str, Any]]
]
Initial = Callable[[Sequence[ReleasedUpdate], RunContext], Artefact]

_MODULES = {
    "newton": "newton",
    "fedavg": "linear",
    "fedprox": "linear",
    "local_dp": "linear",
    "private": "private_rounds",
    "fedadam": "optimisers",
    "fedyogi": "optimisers",
    "fedadagrad": "optimisers",
    "scaffold": "scaffold",
    "bagging": "trees",
    "cyclic": "trees",
    "summed_histograms": "histograms",
    "xgboost_federated": "live",
    "private_trees": "private_trees",
    "private_additive": "private_additive",
    "local_forests": "trees",
}


def aggregator(strategy: str) -> Aggregate:
    """The ``aggregate`` function of a strategy."""
    module = importlib.import_module(f"{__name__}.{_MODULES[strategy]}")
    aggregate: Aggregate = module.aggregate
    return aggregate


def initialiser(kind: str) -> Initial:
    """The ``initial`` function of a kind of model."""
    initial: Initial = importlib.import_module(f"{__name__}.{kind}").initial
    return initial


def in_order(updates: Sequence[ReleasedUpdate]) -> list[ReleasedUpdate]:
    """Updates by site name, never by arrival.

    Raises
    ------
    PrivacyError
        ``privacy.order`` for anything that did not come through a site's release door.
    """
    for update in updates:
        if not isinstance(update, ReleasedUpdate):
            raise PrivacyError(
                "privacy.order",
                "An aggregate was handed something that is no released update.",
                "Pass a site's update through privatise and release first.",
            )
    return sorted(updates, key=lambda update: update.site)
