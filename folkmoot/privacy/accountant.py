"""From events to epsilon: a closed form where there is one, ``dp_accounting`` everywhere else.

Pure Gaussian compositions, the common case, need nothing but ``math``: k Gaussian mechanisms with
noise multipliers s_i compose to one with ``1/s² = sum 1/s_i²`` (Dong, Roth & Su 2022, cor. 3.3),
whose epsilon at delta is exact (Balle & Wang 2018, theorem 8).  Discrete Gaussians count as
continuous ones of slightly less noise.  For the rest a privacy loss distribution (PLD) and Renyi
accounting (RDP) are both asked, and the tighter answer is reported.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from folkmoot.errors import PrivacyError
from folkmoot.privacy.convert import as_gaussian, common, mixed, stated
from folkmoot.privacy.events import (
    DiscreteGaussian,
    DiscreteLaplace,
    Event,
    Exact,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    PoissonSampled,
    PureDP,
    Skellam,
    from_dict,
)

__all__ = ["count", "epsilon", "gaussian_delta", "gaussian_epsilon", "guarantee"]
__all__ += ["pld_epsilon", "rdp_epsilon"]

Events = Mapping[Event, int] | Iterable[Event | Mapping[str, Any]]

#: What one release of discrete noise adds to delta at most: 2^28 numbers within 2^-128 each.
_SLACK = 2.0**-100
#: Share of delta that is kept for it: the first that is enough.
_KEPT = (1e-9, 1e-6, 1e-3)
#: Below this many steps of the grid, Renyi accounting of a discrete Gaussian may be the tighter.
_COARSE = 10.0


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
        ``analytic-gaussian``, ``sum``, ``pld``, ``rdp``, ``group``, ``unaccounted`` or ``none``.
        Unit and relation that it holds for are those of :func:`guarantee`.

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
    if mixed(counts):
        whole, sampled = common(counts)
        return _group(whole, sampled, delta) if sampled else epsilon(whole, delta)
    discrete = sum(
        n for e, n in counts.items() if isinstance(e, DiscreteGaussian | DiscreteLaplace | Skellam)
    )
    if not discrete:
        return _tightest(counts, delta)
    for kept in _KEPT:
        value, method = _tightest(counts, delta * (1 - kept))
        if math.log1p(discrete) + math.log(2 * _SLACK) + value <= math.log(kept * delta):
            return value, method
    return math.inf, "unaccounted"  # an epsilon in the dozens: nothing is promised there


def guarantee(events: Events) -> tuple[str, str] | None:
    """Unit and relation that :func:`epsilon` of these events holds for; None without events.

    The weaker of each: what bounds a person's rows together bounds one of them as well, and two
    neighbours by replacement are at most two steps of adding and removing apart.
    """
    stated_ = {stated(event) for event in count(events) if not isinstance(event, Exact)}
    if not stated_:
        return None
    units, relations = {unit for unit, _ in stated_}, {relation for _, relation in stated_}
    return (
        "record" if "record" in units else "person",
        "replace-one" if "replace-one" in relations else "add-or-remove",
    )


def _tightest(counts: dict[Event, int], delta: float) -> tuple[float, str]:
    gaussians = [(as_gaussian(event), n) for event, n in counts.items()]
    answers: list[tuple[float, str]] = []
    if all(multiplier is not None for multiplier, _ in gaussians):
        inverse = sum(n / m**2 for m, n in gaussians if m is not None)
        answers = [(gaussian_epsilon(1 / math.sqrt(inverse), delta), "analytic-gaussian")]
        if not any(isinstance(e, DiscreteGaussian) and e.steps < _COARSE for e in counts):
            return answers[0]
    total = _pure_sum(counts)
    if total is not None:
        answers.append((total, "sum"))
        if sum(counts.values()) == 1:
            return answers[-1]
    answers.append((rdp_epsilon(counts, delta), "rdp"))
    if answers[0][1] != "analytic-gaussian":
        answers.append((pld_epsilon(counts, delta), "pld"))
    return min(answers)


def _group(whole: dict[Event, int], sampled: dict[Event, int], delta: float) -> tuple[float, str]:
    """Sampled add-or-remove events beside replace-one events, under replace-one.

    Two neighbours by replacement are two steps apart: (e, d) becomes (2 e, (1 + exp(e)) d), and
    that is added to the rest (basic composition), each with half of delta.
    """
    share = delta / 2
    for _ in range(60):
        one, _ = epsilon(sampled, share)
        if (1 + math.exp(min(one, 700.0))) * share <= delta / 2:
            return 2 * one + epsilon(whole, delta / 2)[0], "group"
        share = delta / 2 / (1 + math.exp(min(one * 1.05, 700.0)))
        if share <= 0:
            break
    return math.inf, "unaccounted"


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
    if gaussian_delta(m, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(m, high) > delta:
        low, high = high, 2 * high
        if not math.isfinite(high):
            return math.inf
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if gaussian_delta(m, middle) > delta else (low, middle)
    return high


def gaussian_delta(m: float, e: float) -> float:
    """Exact delta at epsilon ``e`` of one Gaussian mechanism with noise multiplier ``1 / m``."""
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
        one = _pure(event)
        if one is None:
            return None
        total += n * one
    return total


def _pure(event: Event) -> float | None:
    if isinstance(event, PureDP):
        return event.epsilon
    if isinstance(event, Laplace | DiscreteLaplace):
        return 1 / event.noise_multiplier
    return None


def pld_epsilon(counts: Mapping[Event, int], delta: float) -> float:
    """Epsilon by privacy loss distributions (Koskela et al. 2020; Google's ``dp_accounting``).

    Each event's dominating pair is written in units of its own sensitivity, so the relation the
    event was calibrated to does not change the pair; sampled events are add-or-remove.  Infinite
    where an event has no dominating pair here: Skellam noise, samples of fixed size.
    """
    from dp_accounting.pld import common as pld_common
    from dp_accounting.pld import privacy_loss_distribution as pld

    if any(isinstance(event, Exact | Skellam | FixedSizeSampled) for event in counts):
        return math.inf
    total = None
    for event, n in counts.items():
        repeat = n
        if isinstance(event, Gaussian | DiscreteGaussian):
            multiplier = as_gaussian(event)
            if multiplier is None:
                return math.inf
            one, repeat = pld.from_gaussian_mechanism(multiplier / math.sqrt(n)), 1
        elif isinstance(event, Laplace):
            one = pld.from_laplace_mechanism(event.noise_multiplier)
        elif isinstance(event, PoissonSampled):
            _sampled(event)
            one = pld.from_gaussian_mechanism(
                event.event.noise_multiplier, sampling_prob=event.sampling_probability
            )
        else:  # of a vector of discrete Laplace numbers, its epsilon is all that is used
            one = pld.from_privacy_parameters(
                pld_common.DifferentialPrivacyParameters(_pure(event) or math.inf)
            )
        one = one.self_compose(repeat) if repeat > 1 else one
        total = one if total is None else total.compose(one)
    return float(total.get_epsilon_for_delta(delta)) if total is not None else 0.0


def rdp_epsilon(counts: Mapping[Event, int], delta: float) -> float:
    """Epsilon by Renyi differential privacy (Mironov 2017; Google's ``dp_accounting``)."""
    import dp_accounting as dp
    from dp_accounting import rdp

    fixed = any(isinstance(event, FixedSizeSampled) for event in counts)
    relations = dp.NeighboringRelation
    accountant = rdp.RdpAccountant(
        neighboring_relation=relations.REPLACE_ONE if fixed else relations.ADD_OR_REMOVE_ONE
    )
    skellam: list[tuple[Skellam, int]] = []
    for event, n in counts.items():
        if isinstance(event, Gaussian | DiscreteGaussian):
            # A discrete Gaussian has the Renyi divergences of a continuous one (CKS 2020, thm 14).
            accountant.compose(dp.GaussianDpEvent(event.noise_multiplier), n)
        elif isinstance(event, Laplace):
            accountant.compose(dp.LaplaceDpEvent(event.noise_multiplier), n)
        elif isinstance(event, PureDP | DiscreteLaplace):
            # epsilon-DP is epsilon²/2-zCDP (Bun & Steinke 2016, proposition 1.4).
            accountant.compose(dp.ZCDpEvent((_pure(event) or math.inf) ** 2 / 2), n)
        elif isinstance(event, PoissonSampled):
            _sampled(event)
            inner = dp.GaussianDpEvent(event.event.noise_multiplier)
            with _quiet():
                accountant.compose(dp.PoissonSampledDpEvent(event.sampling_probability, inner), n)
        elif isinstance(event, FixedSizeSampled):
            inner = dp.GaussianDpEvent(event.event.noise_multiplier)
            accountant.compose(
                dp.SampledWithoutReplacementDpEvent(event.source_size, event.sample_size, inner), n
            )
        elif isinstance(event, Skellam):
            skellam.append((event, n))
        else:
            return math.inf
    if not skellam:
        with _quiet():
            return float(accountant.get_epsilon(delta))
    orders = accountant._orders
    total = [
        float(base) + sum(n * _skellam_rdp(event, math.ceil(order)) for event, n in skellam)
        for order, base in zip(orders, accountant._rdp, strict=True)
    ]
    return float(rdp.compute_epsilon(orders, total, delta)[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Orders that ``dp_accounting`` cannot evaluate are left out, which errs on the safe side."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _skellam_rdp(event: Skellam, order: int) -> float:
    """Renyi divergence of integer order > 1 (Agarwal, Kairouz & Liu 2021, theorem 3.5)."""
    l2 = event.steps / event.noise_multiplier
    l1 = min(math.sqrt(event.dimension) * l2, l2 * l2)  # integers: |x| <= x²
    variance = event.steps**2
    more = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return order * l2**2 / (2 * variance) + min(more, 3 * l1 / (2 * variance))


def _sampled(event: PoissonSampled) -> None:
    if event.event.relation != "add-or-remove" and event.sampling_probability < 1:
        raise PrivacyError(
            "privacy.mechanism",
            "Poisson sampling is accounted under the add-or-remove relation only.",
            "State the event under add-or-remove, or do not sample.",
        )
