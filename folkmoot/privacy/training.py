"""The schedule of a private training: which sums are released, and under what noise.

Clipping ``record`` bounds what every record adds to a sum; the whole run is one composition of
Gaussian releases with a budget of its own (Dong, Roth & Su 2022, corollary 3.3), of which each
release gets a share.  Sites and coordinator compute the same schedule from params and contract:
nothing in it is read from rows, and :attr:`Schedule.why` says why the method was chosen.

How a model's releases are planned: :mod:`folkmoot.privacy.linear_schedule`,
:mod:`folkmoot.trees.private`; what they are made of: :mod:`folkmoot.privacy.planned`.
"""

from __future__ import annotations

import math

from folkmoot.contract import Contract
from folkmoot.errors import ProtocolError
from folkmoot.params import Params
from folkmoot.privacy.events import Event
from folkmoot.privacy.linear_schedule import linear_schedule
from folkmoot.privacy.persons import check_split, person_column
from folkmoot.privacy.planned import Release, Schedule
from folkmoot.wire import Artefact

__all__ = ["charges", "clip_of", "schedule"]

#: Schedules that this process has made: every step asks for its own.
_made: dict[tuple[str, ...], Schedule] = {}
_KEEP = 64


def schedule(params: Params, contract: Contract) -> Schedule:
    """Plan the releases of a run with clipping ``record``; O(features), kept.

    Parameters
    ----------
    params : Params
        ``privacy.clipping`` must be ``record``.
    contract : Contract
        Its columns bound what one record can add.

    Returns
    -------
    Schedule

    Raises
    ------
    PrivacyError
        ``privacy.small-data`` where the noise would drown the answer; ``privacy.mechanism`` where
        method, task and budget do not fit each other, and for a contract that does not tell people
        apart under unit ``person``.
    ConfigError
        ``config.invalid`` for a split that lets one row move others.
    """
    check_split(params, contract)
    person_column(params, contract)
    settings = (params.privacy, params.anonymisation, params.model.chosen, params.federation)
    key = (contract.content_digest, *(section.model_dump_json() for section in settings))
    if key not in _made:
        if len(_made) >= _KEEP:
            _made.clear()
        _made[key] = _schedule(params, contract)
    return _made[key]


def charges(params: Params, contract: Contract, round: int) -> dict[str, Event]:
    """What the update of a round costs, by part, under clipping ``record``; round 0: evaluation."""
    planned = schedule(params, contract)
    if round == 0:
        return {} if planned.evaluation is None else {"evaluation": planned.evaluation.event}
    return {"update": planned.of(round).event}


def clip_of(model: Artefact, release: Release) -> float:
    """Clip norm that a model asks for where it adapts; the planned one before the first gradient.

    Raises
    ------
    ProtocolError
        ``protocol.mismatch`` for a model with no such number.
    """
    found = model.arrays.get("state.clip")
    if found is None:
        return release.clip
    if found.shape != () or found.dtype.kind != "f" or not 0 < float(found) < math.inf:
        raise ProtocolError(
            "protocol.mismatch",
            "The global model has a clip norm that is not one positive number.",
            "Check that coordinator and site run the same version of folkmoot.",
        )
    return float(found)


def _schedule(params: Params, contract: Contract) -> Schedule:
    if params.model.kind == "trees" and params.model.trees.strategy == "private_trees":
        from folkmoot.trees.private import tree_schedule

        return tree_schedule(params, contract)
    return linear_schedule(params, contract)
