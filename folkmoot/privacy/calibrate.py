"""From a privacy budget to the noise that keeps it.

Without sampling the answer has a closed form and needs nothing but ``math``; with Poisson sampling
``dp_accounting``'s privacy loss distributions are asked until the noise is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from folkmoot.errors import PrivacyError
from folkmoot.privacy.accountant import Events, epsilon, gaussian_delta, pld_epsilon
from folkmoot.privacy.events import Event, Gaussian, PoissonSampled

__all__ = ["check_budget", "gaussian_multiplier", "noise_multiplier", "smallest_scale"]


def check_budget(
    epsilon: float,
    delta: float,
    *,
    rows: int | None = None,
    q: float = 1.0,
    clip_norm: float | None = None,
) -> None:
    """Refuse budgets that promise nothing.

    Parameters
    ----------
    epsilon : float
        Must be above 0 and finite.
    delta : float
        Must lie in (0, 1), and at most ``1 / rows`` where the rows are given: a larger one would
        allow a mechanism that publishes one row whole.
    rows : int, optional
        Training rows of the smallest site.
    q : float
        Probability with which a row takes part in a round, in (0, 1].
    clip_norm : float, optional
        Must be above 0 and finite.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism``, naming the setting.
    """
    if not _number(epsilon) or epsilon <= 0:
        raise _refused("epsilon", "must be finite and above 0", "Plan an epsilon such as 1.")
    if not _number(delta) or not 0 < delta < 1:
        raise _refused("delta", "must lie between 0 and 1", "Plan a delta such as 1e-5.")
    if rows is not None and (rows < 1 or delta > 1 / rows):
        raise _refused(
            "delta",
            f"must be at most 1/{rows}, one over the number of rows",
            "Plan a smaller delta, or train on more rows.",
        )
    if not _number(q) or not 0 < q <= 1:
        raise _refused("the sampling probability", "must be above 0 and at most 1", "Set it to 1.")
    if clip_norm is not None and (not _number(clip_norm) or clip_norm <= 0):
        raise _refused("clip_norm", "must be finite and above 0", "Plan a clip norm such as 1.")


def noise_multiplier(
    epsilon: float, delta: float, rounds: int, q: float = 1.0, *, rows: int | None = None
) -> float:
    """Smallest noise multiplier whose ``rounds`` Gaussian releases together keep a budget.

    Parameters
    ----------
    epsilon, delta : float
        The whole run's budget.
    rounds : int
        Releases, at least 1.
    q : float
        Poisson sampling probability per round, under add-or-remove; 1 for none.
    rows : int, optional
        Of the smallest site, to hold delta against.

    Returns
    -------
    float
        Standard deviation over sensitivity.  Rounded up: epsilon is kept, with continuous noise and
        with discrete noise of 2^18 grid steps or more, and wasted by less than 1e-7 of it (1e-3
        where ``q < 1``).

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` for a budget that :func:`check_budget` refuses, and for no rounds.

    Notes
    -----
    Balle & Wang (2018), theorem 8, with k rounds composing to one of ``sigma / sqrt(k)``.
    """
    check_budget(epsilon, delta, rows=rows, q=q)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise _refused("the number of rounds", "must be at least 1", "Plan at least one round.")
    # A little more than a continuous Gaussian needs: discrete ones keep a billionth of delta back.
    whole = gaussian_multiplier(epsilon, delta * (1 - 2e-9)) * (1 + 1e-9) * math.sqrt(rounds)
    if q == 1:
        return whole

    def events(multiplier: float) -> dict[Event, int]:
        return {PoissonSampled(q, Gaussian(multiplier, relation="add-or-remove")): rounds}

    # The central limit of sampled rounds (Bu et al. 2020) is a closed form of nearly the same
    # slope: what it is asked for is corrected by what comes out (secant, in logarithms).
    def limit(s: float) -> float:
        return q * math.sqrt(rounds * math.expm1(min(1 / s**2, 700.0)))

    goal = math.log(epsilon * (1 - 5e-4))
    asked, slope = goal, 1.0
    before: tuple[float, float] | None = None
    for _ in range(8):
        aim = math.exp(asked)
        s = _search(lambda s: gaussian_delta(limit(s), aim) <= delta, 0.1, whole, 1e-9)  # noqa: B023
        found = pld_epsilon(events(s), delta)
        if epsilon * (1 - 1e-3) <= found <= epsilon:
            return s
        if before is not None and asked != before[0]:
            slope = min(
                5.0, max(0.2, (math.log(max(found, 1e-12)) - before[1]) / (asked - before[0]))
            )
        before = asked, math.log(max(found, 1e-12))
        asked += (goal - before[1]) / slope
    return smallest_scale(events, epsilon, delta, low=s / 2, high=2 * s, tolerance=3e-4)


def smallest_scale(
    events: Callable[[float], Events],
    epsilon_: float,
    delta: float,
    *,
    low: float = 1e-3,
    high: float = 1e3,
    tolerance: float = 1e-4,
) -> float:
    """Smallest scale s for which ``events(s)`` keep a budget: for runs of unlike releases.

    Parameters
    ----------
    events : callable
        Scale to the run's events, dearer as the scale falls: for example one Gram matrix at
        ``3 s`` and ten gradients at ``s``.
    epsilon_, delta : float
        The whole run's budget.
    low, high : float
        Where to look first; widened where needed.
    tolerance : float
        Relative; the upper end is returned.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` where no noise up to 2^40 keeps the budget.
    """
    check_budget(epsilon_, delta)
    return _search(lambda s: epsilon(events(s), delta)[0] <= epsilon_, low, high, tolerance)


def gaussian_multiplier(epsilon: float, delta: float) -> float:
    """Noise multiplier at which one Gaussian release has exactly (epsilon, delta); math only."""
    return _search(lambda s: gaussian_delta(1 / s, epsilon) <= delta, 0.01, 100.0, 1e-13)


def _search(keeps: Callable[[float], bool], low: float, high: float, tolerance: float) -> float:
    """Smallest scale that ``keeps``, by bisection; the upper end of the last interval."""
    while not keeps(high):
        low, high = high, 2 * high
        if high > 2.0**40:
            raise _refused("the budget", "cannot be kept by any noise", "Plan a larger budget.")
    while keeps(low):
        low, high = low / 2, low
        if low < 2.0**-40:
            return high
    while high - low > tolerance * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def _number(value: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refused(name: str, rule: str, remedy: str) -> PrivacyError:
    return PrivacyError("privacy.mechanism", f"{name} {rule}.", remedy)
