"""What a schedule is: sums that a run releases, their noise, and each site's share of it.

Made by :mod:`folkmoot.privacy.training`; sites and coordinator read it alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from folkmoot.errors import PrivacyError
from folkmoot.params import Params
from folkmoot.privacy.events import DiscreteGaussian, Event, Unit
from folkmoot.privacy.shares import Shares

__all__ = [
    "COUNT_EXPONENT",
    "EVALUATION_SHARE",
    "FACTOR_EXPONENT",
    "ROW_EXPONENT",
    "Kind",
    "Method",
    "Release",
    "Schedule",
    "moved_rows",
    "noise_of_sum",
    "share_of",
]

Kind = Literal["histogram", "gram", "gradient", "labels", "leaves", "evaluation", "statistics"]
Method = Literal["newton", "gradient", "moments", "leaves"]

#: Share of a run's budget (of 1/sigma²) that noised evaluation counts get.
EVALUATION_SHARE = 0.05
#: Steps are 2^-exponent: of a design row, of a gradient's factor, of a count.
ROW_EXPONENT, FACTOR_EXPONENT, COUNT_EXPONENT = 12, 14, 20


@dataclass(frozen=True)
class Release:
    """One noised sum that every site contributes to.

    Parameters
    ----------
    kind : str
        What is summed.
    noise_multiplier : float
        Standard deviation of the sum's planned noise over ``sensitivity``.
    norm : float
        Largest L2 norm of one record's vector.
    sensitivity : float
        Largest change of the sum between neighbouring datasets: the norm, times what relation and
        preparation make of one record.
    exponent : int
        The sum is made of whole steps of ``2^-exponent``.
    relation : str
        As ``privacy.relation``.
    clip : float
        Of a gradient: the clip norm to begin with.
    counted : float
        Of a gradient under ``privacy.adaptive_clip``: the norm is 1, a gradient is divided by the
        clip of its round, and this share of the norm counts the gradients that were not clipped.
    unit : str
        As ``privacy.unit``.
    """

    kind: Kind
    noise_multiplier: float
    norm: float
    sensitivity: float
    exponent: int
    relation: Literal["add-or-remove", "replace-one"]
    clip: float = 0.0
    counted: float = 0.0
    unit: Unit = "record"

    @property
    def deviation(self) -> float:
        """Standard deviation of the planned noise, in steps."""
        return self.noise_multiplier * self.sensitivity * 2.0**self.exponent

    @property
    def event(self) -> Event:
        """What the release costs every site that takes part in it."""
        return DiscreteGaussian(
            self.noise_multiplier,
            self.sensitivity,
            self.unit,
            self.relation,
            steps=self.deviation,
        )


@dataclass(frozen=True)
class Schedule:
    """All releases of a run, by round.

    Parameters
    ----------
    method : str
        How the model is trained.
    why : str
        One sentence for people.
    releases : tuple of Release
        One per round, from round 1.
    evaluation : Release or None
        Held-out counts at the end.
    epsilon : float
        What all releases together cost.
    share : float
        Standard deviation of the noise a site adds, over the planned one.
    total : float
        Standard deviation of the noise of the sum over all sites, over the planned one.
    width : int
        Columns of the design, the constant included (at most, with bins).
    """

    method: Method
    why: str
    releases: tuple[Release, ...]
    evaluation: Release | None
    epsilon: float
    share: float
    total: float
    width: int

    @property
    def rounds(self) -> int:
        """Rounds that release anything."""
        return len(self.releases)

    def of(self, round: int) -> Release:
        """The release of a round.

        Raises
        ------
        PrivacyError
            ``privacy.mechanism`` for a round that the schedule does not have.
        """
        if not 1 <= round <= self.rounds:
            raise PrivacyError(
                "privacy.mechanism",
                f"The schedule has no release in round {round}.",
                "Check that coordinator and site run the same version of folkmoot.",
            )
        return self.releases[round - 1]


def moved_rows(params: Params) -> int:
    """Rows of a sum that one protected unit moves at most.

    Suppression of small classes lets one record move several prepared rows; a person has several.
    """
    moved = max(1, params.anonymisation.k)
    if params.privacy.unit == "person":
        moved *= params.privacy.rows_per_person
    return moved * (2 if params.privacy.relation == "replace-one" else 1)


def noise_of_sum(params: Params) -> float:
    """Standard deviation of the noise of the sum over all sites, over the planned one."""
    if params.privacy.noise == "coordinator":
        return 1.0
    planned = 1 if params.privacy.noise == "site" else _shares(params, 2.0**20).honest
    return math.sqrt(len(params.federation.members) / planned)


def _shares(params: Params, sigma: float) -> Shares:
    """The sum's noise in shares of all members (:mod:`folkmoot.privacy.shares`).

    Fewer than a quorum without ``dropouts`` never open a sum, so the others may all be missing.
    """
    sites, privacy = len(params.federation.members), params.privacy
    missing = sites - params.federation.required + privacy.dropouts
    return Shares(sigma, sites, missing, privacy.colluders)


def share_of(params: Params, releases: list[Release]) -> float:
    """What each site adds, over the planned noise; refuses shares whose sum has another law."""
    if params.privacy.noise != "distributed":
        return 1.0 if params.privacy.noise == "site" else 0.0
    return max(_shares(params, one.deviation).share / one.deviation for one in releases)
