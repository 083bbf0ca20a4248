"""What differential privacy adds to the sums of a run of statistics, and what it costs.

All parts of the run are one composition of discrete Gaussian releases within ``privacy.epsilon``; each
gets an equal share of it (of 1/sigma²).  Sites and coordinator plan the same from params and contract.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from folkmoot.contract import Contract
from folkmoot.errors import PrivacyError
from folkmoot.params import Params
from folkmoot.privacy.calibrate import gaussian_multiplier
from folkmoot.privacy.events import DiscreteLaplace, Event
from folkmoot.privacy.planned import Release
from folkmoot.privacy.shares import Shares
from folkmoot.statistics.questions import Part, parts_of

__all__ = ["charges", "overlap_event", "planned", "releases", "share_of", "total_deviation"]


def releases(params: Params, contract: Contract) -> dict[str, Release]:
    """Noise of every part of the round of sums; empty without differential privacy; O(columns)."""
    privacy = params.privacy
    stages = params.statistics.stages(noised=True)
    if not privacy.private or "sum" not in stages:
        return {}
    if privacy.epsilon is None:
        raise PrivacyError(
            "privacy.mechanism", "Noised statistics need privacy.epsilon.", "Set it to a budget."
        )
    parts = parts_of(params, contract, stages.index("sum") + 1)
    one = gaussian_multiplier(privacy.epsilon, privacy.delta * (1 - 1e-8)) * (1 + 1e-9)
    sigma = one * math.sqrt(len(parts))
    moved = 2.0 if privacy.relation == "replace-one" else 1.0
    return {
        part.name: Release(
            "statistics", sigma, part.norm, part.norm * moved, part.exponent, privacy.relation
        )
        for part in parts
    }


def share_of(params: Params, contract: Contract) -> float:
    """Standard deviation of the noise that each site adds, over the planned one.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` where shares would be too small for their sum to have the planned law.
    """
    if params.privacy.noise != "distributed":
        return 1.0
    found = releases(params, contract).values()
    return max(_shares(params, one.deviation).share / one.deviation for one in found)


def _shares(params: Params, deviation: float) -> Shares:
    sites, privacy = len(params.federation.members), params.privacy
    missing = sites - params.federation.required + privacy.dropouts
    return Shares(deviation, sites, missing, privacy.colluders)


def total_deviation(params: Params, contract: Contract, part: Part, contributors: int) -> float:
    """Standard deviation of the noise of an opened sum, in natural units; 0 without noise."""
    found = releases(params, contract).get(part.name)
    if found is None:
        return 0.0
    steps = found.deviation * share_of(params, contract) * math.sqrt(contributors)
    return math.ldexp(steps, -part.exponent)


def overlap_event(params: Params) -> Event | None:
    """What the size of one overlap costs each of its two sites; None where it is exact.

    One person more or less moves the size by one; noise is the discrete Laplace law.
    """
    epsilon = params.statistics.overlap_epsilon
    if epsilon is None:
        return None
    relation = params.privacy.relation
    sensitivity = 1.0  # replacing a person takes one out and puts one in: the size moves by one
    return DiscreteLaplace(1.0 / epsilon, sensitivity, "record", relation)


def charges(params: Params, contract: Contract, round: int) -> dict[str, Event]:
    """What a site's release of sums in a round costs, by part."""
    names = {part.name for part in parts_of(params, contract, round)}
    found = releases(params, contract)
    return {name: one.event for name, one in found.items() if name in names}


def planned(params: Params, contract: Contract) -> Mapping[Event, int]:
    """What a whole run charges each site at most, with counts."""
    found: dict[Event, int] = {}
    for one in releases(params, contract).values():
        found[one.event] = found.get(one.event, 0) + 1
    event = overlap_event(params)
    if event is not None and "overlap" in params.statistics.ask:
        found[event] = found.get(event, 0) + len(params.federation.members) - 1
    return found
