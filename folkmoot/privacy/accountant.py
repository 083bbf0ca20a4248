"""From events to epsilon: a closed form where there is one, ``dp_accounting`` everywhere else.

Pure Gaussian compositions, the common case, need nothing but ``math``: k Gaussian mechanisms with
noise multipliers s_i compose to one with ``1/s² = sum 1/s_i²`` (Dong, Roth & Su 2022, cor. 3.3),
whose epsilon at delta is exact (Balle & Wang 2018, theorem 8).  For the rest a privacy loss
distribution (PLD) and Renyi accounting (RDP) are both asked, and the tighter answer is reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from folkmoot.errors import PrivacyError
from folkmoot.privacy.events import (
    Event,
    Exact,
    Gaussian,
    Laplace,
    PoissonSampled,
    PureDP,
    from_dict,
)

__all__ = ["epsilon", "gaussian_epsilon", "pld_epsilon", "rdp_epsilon"]

Events = Mapping[Event, int] | Iterable[Event | Mapping[str, Any]]


def epsilon(events: Events, delta: float) -> tuple[float, str]:
    """Epsilon of all events together at ``delta``.

    Parameters
    ----------
    events : mapping of event to count, or iterable of events or of their JSON values
        Composed adaptively.
    delta : float
        In (0, 1).

    Returns
    -------
    (float, str)
        Epsilon (0 for no events, infinite where an event is exact) and the method:
        ``analytic-gaussian``, ``sum``, ``pld``, ``rdp``, ``unaccounted`` or ``none``.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` for a delta outside (0, 1) and for compositions that no method covers.
    """
    if not 0 < delta < 1:
        raise PrivacyError(
            "privacy.mechanism", "delta must lie between 0 and 1.", "Mend privacy.delta."
        )
    counts = count(events)
    if not counts:
        return 0.0, "none"
    if any(isinstance(event, Exact) for event in counts):
        return math.inf, "unaccounted"
    gaussians = [e for e in counts if isinstance(e, Gaussian)]
    if len(gaussians) == len(counts):
        inverse = sum(counts[e] / e.noise_multiplier**2 for e in gaussians)
        return gaussian_epsilon(1 / math.sqrt(inverse), delta), "analytic-gaussian"
    total = _pure_sum(counts)
    if total is not None and sum(counts.values()) == 1:
        return total, "sum"
    answers = [(pld_epsilon(counts, delta), "pld"), (rdp_epsilon(counts, delta), "rdp")]
    if total is not None:
        answers.append((total, "sum"))
    return min(answers)


def count(events: Events) -> dict[Event, int]:
    """Distinct events, each with how often it happened."""
    if isinstance(events, Mapping):
        return {event: n for event, n in events.items() if n > 0}
    counts: dict[Event, int] = {}
    for item in events:
        event = from_dict(item) if isinstance(item, Mapping) else item
        counts[event] = counts.get(event, 0) + 1
    return counts


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Exact epsilon of one Gaussian mechanism (Balle & Wang 2018, theorem 8); math only.

    Solves ``delta = Phi(m/2 - e/m) - exp(e) Phi(-m/2 - e/m)``, m = 1 / noise multiplier, by
    bisection; the upper end of the last interval is returned, so rounding errs on the safe side.
    """
    m = 1 / noise_multiplier
    if not math.isfinite(m):
        return math.inf
    if _gaussian_delta(m, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while _gaussian_delta(m, high) > delta:
        low, high = high, 2 * high
        if not math.isfinite(high):
            return math.inf
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _gaussian_delta(m, middle) > delta else (low, middle)
    return high


def _gaussian_delta(m: float, e: float) -> float:
    a = _log_phi(m / 2 - e / m)
    b = e + _log_phi(-m / 2 - e / m)
    return math.exp(a) * -math.expm1(b - a) if b < a else 0.0


def _log_phi(x: float) -> float:
    """log of the standard normal distribution function, without underflow."""
    if x > -25:
        return math.log(math.erfc(-x / math.sqrt(2)) / 2)
    # Asymptotic series; its error is below 1e-9 here.
    s = 1 / x**2
    series = 1 - s * (1 - 3 * s * (1 - 5 * s * (1 - 7 * s)))
    return -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log(series)


def _pure_sum(counts: Mapping[Event, int]) -> float | None:
    """Sum of epsilons where every event is pure DP (basic composition), else None."""
    total = 0.0
    for event, n in counts.items():
        if isinstance(event, PureDP):
            total += n * event.epsilon
        elif isinstance(event, Laplace):
            total += n / event.noise_multiplier
        else:
            return None
    return total


def pld_epsilon(counts: Mapping[Event, int], delta: float) -> float:
    """Epsilon by privacy loss distributions (Koskela et al. 2020; Google's ``dp_accounting``).

    Each event's dominating pair is written in units of its own sensitivity, so the relation the
    event was calibrated to does not change the pair; sampled events are add-or-remove.
    """
    from dp_accounting.pld import common
    from dp_accounting.pld import privacy_loss_distribution as pld

    total = None
    for event, n in counts.items():
        repeat = n
        if isinstance(event, Gaussian):
            one, repeat = pld.from_gaussian_mechanism(event.noise_multiplier / math.sqrt(n)), 1
        elif isinstance(event, Laplace):
            one = pld.from_laplace_mechanism(event.noise_multiplier)
        elif isinstance(event, PureDP):
            one = pld.from_privacy_parameters(common.DifferentialPrivacyParameters(event.epsilon))
        elif isinstance(event, PoissonSampled):
            _sampled(event)
            one = pld.from_gaussian_mechanism(
                event.event.noise_multiplier, sampling_prob=event.sampling_probability
            )
        else:
            return math.inf
        one = one.self_compose(repeat) if repeat > 1 else one
        total = one if total is None else total.compose(one)
    return float(total.get_epsilon_for_delta(delta)) if total is not None else 0.0


def rdp_epsilon(counts: Mapping[Event, int], delta: float) -> float:
    """Epsilon by Renyi differential privacy (Mironov 2017; Google's ``dp_accounting``)."""
    import dp_accounting as dp
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant()
    for event, n in counts.items():
        if isinstance(event, Gaussian):
            accountant.compose(dp.GaussianDpEvent(event.noise_multiplier), n)
        elif isinstance(event, Laplace):
            accountant.compose(dp.LaplaceDpEvent(event.noise_multiplier), n)
        elif isinstance(event, PureDP):
            # epsilon-DP is epsilon²/2-zCDP (Bun & Steinke 2016, proposition 1.4).
            accountant.compose(dp.ZCDpEvent(event.epsilon**2 / 2), n)
        elif isinstance(event, PoissonSampled):
            _sampled(event)
            inner = dp.GaussianDpEvent(event.event.noise_multiplier)
            accountant.compose(dp.PoissonSampledDpEvent(event.sampling_probability, inner), n)
        else:
            return math.inf
    return float(accountant.get_epsilon(delta))


def _sampled(event: PoissonSampled) -> None:
    if event.event.relation != "add-or-remove" and event.sampling_probability < 1:
        raise PrivacyError(
            "privacy.mechanism",
            "Poisson sampling is accounted under the add-or-remove relation only.",
            "State the event under add-or-remove, or do not sample.",
        )
