"""Events side by side: what they state, and one relation for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from folkmoot.privacy.events import (
    DiscreteGaussian,
    Event,
    Exact,
    FixedSizeSampled,
    Gaussian,
    PoissonSampled,
    PureDP,
)

__all__ = ["as_gaussian", "common", "mixed", "stated"]

#: Variance in grid steps that randomised rounding needs to hide the grid to within 2^-140.
_ROUNDING = 5


def stated(event: Event) -> tuple[str, str]:
    """Unit and relation of an event."""
    if isinstance(event, Exact):
        raise TypeError("an exact release states no unit and no relation")
    if isinstance(event, PoissonSampled | FixedSizeSampled):
        event = event.event
    return event.unit, event.relation


def as_gaussian(event: Event) -> float | None:
    """Noise multiplier of a continuous Gaussian that is no more private than this event, or None.

    A discrete Gaussian of variance v (in steps) is, to within 2^-140 per number, a continuous one
    of variance v - 5 put on the grid by a discrete Gaussian of variance 5 around each number.
    """
    if isinstance(event, Gaussian):
        return event.noise_multiplier
    if isinstance(event, DiscreteGaussian) and event.steps**2 > _ROUNDING:
        return event.noise_multiplier * math.sqrt(1 - _ROUNDING / event.steps**2)
    return None


def mixed(counts: Mapping[Event, int]) -> bool:
    """Whether events of both relations are among these."""
    return len({stated(event)[1] for event in counts}) > 1


def common(counts: Mapping[Event, int]) -> tuple[dict[Event, int], dict[Event, int]]:
    """All events under replace-one, and apart from them sampled ones that have no such form.

    Replacing is removing and adding: what moves an output by S moves it by at most 2 S then, and
    epsilon becomes 2 epsilon for pure DP.
    """
    whole: dict[Event, int] = {}
    sampled: dict[Event, int] = {}
    for event, n in counts.items():
        if isinstance(event, PoissonSampled) and event.sampling_probability < 1:
            sampled[event] = n
            continue
        one = event.event if isinstance(event, PoissonSampled) else event
        if stated(one)[1] == "add-or-remove":
            if isinstance(one, PureDP):
                one = replace(one, epsilon=2 * one.epsilon, relation="replace-one")
            elif not isinstance(one, Exact | FixedSizeSampled | PoissonSampled):
                one = replace(
                    one,
                    noise_multiplier=one.noise_multiplier / 2,
                    sensitivity=2 * one.sensitivity,
                    relation="replace-one",
                )
        whole[one] = whole.get(one, 0) + n
    return whole, sampled
