"""How much noise each site adds so that the sum over those who remain is private (`distributed`).

Of n sites, d may drop out and c may collude: whoever reads the sum with the help of c sites can
subtract their shares.  The shares of the other ``n - d - c`` must make up the planned noise, so each
site's variance is ``sigma² / (n - d - c)``; where nobody fails, the sum holds more than planned.

A site that reads the result is a colluder of its own: with c = 0 the guarantee holds against the
coordinator and readers outside, not against the member sites.

**The sum's law.**  Skellam shares sum to a Skellam number exactly.  Discrete Gaussian shares do not
quite; but with share variances of at least 10 every partial sum satisfies ``r² >= 5`` in the lemma
of :mod:`folkmoot.privacy.noise.discrete_gaussian`, so the sum of up to 4,096 shares is a discrete
Gaussian to within 2^-129 (compare Kairouz, Liu & Steinke 2021, theorem 1, whose bound this is).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import PrivacyError
from folkmoot.privacy.events import DiscreteGaussian, Relation, Skellam, Unit
from folkmoot.privacy.noise import Entropy, discrete_gaussian, skellam

__all__ = ["Law", "Shares"]

Law = Literal["discrete-gaussian", "skellam"]
_SMOOTH_SHARE = 10
_MOST_SITES = 4096


@dataclass(frozen=True)
class Shares:
    """Noise in shares, planned for one sum over sites.

    Parameters
    ----------
    sigma : float
        Standard deviation that the sum must keep, in steps of the integer grid.
    sites : int
        n: sites that add a share.
    dropouts : int
        d: of them, how many may be missing from the sum.
    colluders : int
        c: of them, how many may help a reader of the sum by telling him their shares.
    law : {"discrete-gaussian", "skellam"}
        Of the noise.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` where nobody's noise would be left, and where discrete Gaussian shares
        would be too small for their sum to be a discrete Gaussian.
    """

    sigma: float
    sites: int
    dropouts: int = 0
    colluders: int = 0
    law: Law = "discrete-gaussian"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise _refused("The noise of a sum must be finite and above 0.", "Plan more noise.")
        if not 1 <= self.sites <= _MOST_SITES or min(self.dropouts, self.colluders) < 0:
            raise _refused(
                f"Shares of noise are for 1 to {_MOST_SITES} sites.",
                "Check the federation's members.",
            )
        if self.honest < 1:
            raise _refused(
                f"Of {self.sites} sites, {self.dropouts} may drop out and {self.colluders} collude: "
                "nobody's noise would be left.",
                "Tolerate fewer dropouts or colluders, or add the noise at each site.",
            )
        if self.law == "discrete-gaussian" and self.sites > 1 and self.variance < _SMOOTH_SHARE:
            raise _refused(
                "The shares of discrete Gaussian noise are too small for their sum to be one: "
                f"{float(self.variance):.3g} squared steps each, {_SMOOTH_SHARE} are needed.",
                "Use a finer grid, or Skellam noise.",
            )

    @property
    def honest(self) -> int:
        """Shares that remain in the worst case."""
        return self.sites - self.dropouts - self.colluders

    @property
    def share(self) -> float:
        """Standard deviation of one share, in steps; rounded up."""
        share = self.sigma / math.sqrt(self.honest)
        while Fraction(share) ** 2 * self.honest < Fraction(self.sigma) ** 2:
            share = math.nextafter(share, math.inf)
        return share

    @property
    def variance(self) -> Fraction:
        """Variance of one share, exactly."""
        return Fraction(self.share) ** 2

    def draw(
        self, size: int | tuple[int, ...], entropy: Entropy | None = None
    ) -> NDArray[np.int64]:
        """One site's share, to be added to its integers before they are masked; O(size)."""
        if self.law == "skellam":
            return skellam(self.variance, size, entropy)
        return discrete_gaussian(self.share, size, entropy)

    def check(self, survivors: int) -> None:
        """Refuse a sum that fewer sites than planned contributed to.

        Raises
        ------
        PrivacyError
            ``privacy.mechanism``.
        """
        if survivors < self.sites - self.dropouts:
            raise _refused(
                f"{survivors} of {self.sites} sites are left: their noise does not make up what was "
                f"planned, {self.sites - self.dropouts} are needed.",
                "Repeat the round, or plan for more dropouts.",
            )

    def event(
        self,
        sensitivity: float,
        step: float,
        dimension: int,
        *,
        unit: Unit = "record",
        relation: Relation = "replace-one",
    ) -> DiscreteGaussian | Skellam:
        """What the sum costs every site, in the worst case that was planned for.

        Parameters
        ----------
        sensitivity : float
            L2, in the units of the data, after rounding to the grid
            (:func:`folkmoot.privacy.noise.grid.rounded_sensitivity`).
        step : float
            Of the grid, in the units of the data.
        dimension : int
            How many numbers the sum has.
        unit, relation : str
            What two neighbouring datasets differ in, and how.
        """
        multiplier = self.sigma * step / sensitivity
        if self.law == "skellam":
            return Skellam(
                multiplier, sensitivity, unit, relation, steps=self.sigma, dimension=dimension
            )
        return DiscreteGaussian(multiplier, sensitivity, unit, relation, steps=self.sigma)


def _refused(message: str, remedy: str) -> PrivacyError:
    return PrivacyError("privacy.mechanism", message, remedy)
