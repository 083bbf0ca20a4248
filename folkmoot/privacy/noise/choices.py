"""Private choices among candidates: exponential mechanism and permute-and-flip, exactly.

Both accept a candidate with probability ``exp(-epsilon (best - score) / (2 sensitivity))``; a float's
``exp`` would decide by its rounding (Ilvento 2020).  Here scores and epsilon are fractions and the
coin falls by comparing whole numbers (Canonne, Kamath & Steinke 2020, algorithm 1), so the law is
exact.  Permute-and-flip (McKenna & Sheldon 2020) is never worse than the exponential mechanism;
its answer is expected at most as far from the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from folkmoot.errors import PrivacyError
from folkmoot.privacy.noise.entropy import Entropy
from folkmoot.privacy.noise.tables import positive

__all__ = ["bernoulli_exp", "exponential", "permute_and_flip"]

Score = Fraction | float | int


def exponential(
    scores: Sequence[Score],
    epsilon: Fraction | float,
    sensitivity: Fraction | float = 1,
    *,
    monotonic: bool = False,
    entropy: Entropy | None = None,
) -> int:
    """Index drawn with probability proportional to ``exp(epsilon score / (2 sensitivity))``.

    Parameters
    ----------
    scores : sequence of numbers
        Larger is better; at least one, all finite.
    epsilon : Fraction or float
        Privacy cost.
    sensitivity : Fraction or float
        Most by which one unit of privacy changes any score.
    monotonic : bool
        Whether a unit changes all scores in one direction: the 2 is not needed then.
    entropy : Entropy, optional
        The operating system's by default.

    Returns
    -------
    int

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` for an epsilon, sensitivity or score that is out of range.

    Notes
    -----
    Privacy cost: ``PureDP(epsilon, "exponential")``.  McSherry & Talwar (2007); expected
    ``len(scores)`` trials at most.
    """
    gaps = _gaps(scores, epsilon, sensitivity, monotonic)
    entropy = entropy or Entropy()
    while True:
        index = entropy.below(len(gaps))
        if bernoulli_exp(gaps[index], entropy):
            return index


def permute_and_flip(
    scores: Sequence[Score],
    epsilon: Fraction | float,
    sensitivity: Fraction | float = 1,
    *,
    monotonic: bool = False,
    entropy: Entropy | None = None,
) -> int:
    """Index of a good score: candidates in random order, each with one coin until one is taken.

    Parameters, errors and privacy cost are those of :func:`exponential`; O(len(scores)).
    """
    gaps = _gaps(scores, epsilon, sensitivity, monotonic)
    entropy = entropy or Entropy()
    order = list(range(len(gaps)))
    for last in range(len(order) - 1, -1, -1):
        place = entropy.below(last + 1)
        order[last], order[place] = order[place], order[last]
        if bernoulli_exp(gaps[order[last]], entropy):
            return order[last]
    raise AssertionError("the best candidate is always taken")


def bernoulli_exp(gamma: Fraction, entropy: Entropy) -> bool:
    """Whether a coin of probability ``exp(-gamma)``, gamma >= 0, falls on its head; exact."""
    whole, rest = divmod(gamma, 1)
    for _ in range(whole):
        if not _small(Fraction(1), entropy):
            return False
    return _small(Fraction(rest), entropy)


def _small(gamma: Fraction, entropy: Entropy) -> bool:
    """The coin for gamma in [0, 1]: von Neumann's alternating series."""
    k = 1
    while entropy.below(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1


def _gaps(
    scores: Sequence[Score],
    epsilon: Fraction | float,
    sensitivity: Fraction | float,
    monotonic: bool,
) -> list[Fraction]:
    rate = positive("epsilon", epsilon) / positive("sensitivity", sensitivity)
    rate = rate if monotonic else rate / 2
    try:
        exact = [Fraction(score) for score in scores]
    except (TypeError, ValueError, OverflowError):
        exact = []
    if not exact:
        raise PrivacyError(
            "privacy.mechanism",
            "A private choice needs at least one candidate, and finite scores.",
            "Check how the candidates are scored.",
        )
    best = max(exact)
    return [(best - score) * rate for score in exact]
