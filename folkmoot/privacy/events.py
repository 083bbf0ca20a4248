"""Privacy events: what one release cost, as frozen values that travel as JSON.

The names and formulas are those of ``dp_accounting``.  A noise multiplier is always the standard
deviation (or scale) of the noise over the sensitivity *under the event's own relation*: an event
that says ``replace-one`` was calibrated to what replacing one record can change.

Privacy units: ``record`` is one row; ``person`` is all rows of one person, whose contribution was
bounded as a whole.  Relations: ``add-or-remove`` compares with the dataset without the unit,
``replace-one`` with one where the unit is another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from folkmoot.errors import PrivacyError

__all__ = [
    "EXACT",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "Event",
    "Exact",
    "FixedSizeSampled",
    "Gaussian",
    "Laplace",
    "PoissonSampled",
    "PureDP",
    "Relation",
    "Skellam",
    "Unit",
    "from_dict",
]

Unit = Literal["record", "person"]
Relation = Literal["replace-one", "add-or-remove"]
#: Mechanisms (``privacy.mechanism``) under which updates leave exactly.
EXACT = ("none", "clip")


@dataclass(frozen=True)
class _Plain:
    """An event whose fields are its JSON values."""

    name: ClassVar[str]
    charged: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"event": self.name, **{k: v for k, v in vars(self).items() if v is not None}}


@dataclass(frozen=True)
class _Noise(_Plain):
    """Noise added to an output of bounded sensitivity; the subclass says which norm bounds it."""

    noise_multiplier: float
    sensitivity: float = 1.0
    unit: Unit = "record"
    relation: Relation = "replace-one"

    def __post_init__(self) -> None:
        _positive(noise_multiplier=self.noise_multiplier, sensitivity=self.sensitivity)
        _stated(self.unit, self.relation)


@dataclass(frozen=True)
class Exact(_Plain):
    """Released without noise: nothing bounds what it tells, and no budget is charged.

    Parameters
    ----------
    clip_norm : float, optional
        L2 norm the part was clipped to; clipping alone gives no guarantee.
    """

    name: ClassVar[str] = "exact"
    charged: ClassVar[bool] = False

    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.clip_norm is not None:
            _positive(clip_norm=self.clip_norm)


@dataclass(frozen=True)
class Gaussian(_Noise):
    """Gaussian mechanism (Dwork & Roth 2014, A; analytic form: Balle & Wang 2018).

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise over ``sensitivity``.
    sensitivity : float
        Largest L2 distance between the outputs of two neighbouring datasets.
    unit, relation : str
        What two neighbouring datasets differ in, and how.
    """

    name: ClassVar[str] = "gaussian"


@dataclass(frozen=True)
class DiscreteGaussian(_Noise):
    """Discrete Gaussian noise on an integer grid (Canonne, Kamath & Steinke 2020).

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise over ``sensitivity``.
    sensitivity : float
        Largest L2 distance between the outputs, *after* they were put on the grid, of two
        neighbouring datasets; in the units of the data.
    steps : float
        Standard deviation of the noise in steps of the grid.
    unit, relation : str
        What two neighbouring datasets differ in, and how.

    Notes
    -----
    A discrete Gaussian of variance v is what randomised rounding makes of a continuous one of
    variance v - 5, to within 2^-140 per number; so it is at least as private as that one, in any
    dimension (post-processing).  Sums of shares count as one (:mod:`folkmoot.privacy.shares`).
    """

    name: ClassVar[str] = "discrete-gaussian"

    steps: float = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(steps=self.steps)


@dataclass(frozen=True)
class Skellam(_Noise):
    """Skellam noise on an integer grid (Agarwal, Kairouz & Liu 2021, theorem 3.5).

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise over ``sensitivity``.
    sensitivity : float
        As for :class:`DiscreteGaussian`.
    steps : float
        Standard deviation of the noise in steps of the grid.
    dimension : int
        How many numbers the vector has: bounds its L1 by its L2 sensitivity.
    unit, relation : str
        What two neighbouring datasets differ in, and how.
    """

    name: ClassVar[str] = "skellam"

    steps: float = field(kw_only=True)
    dimension: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(steps=self.steps, dimension=self.dimension)


@dataclass(frozen=True)
class Laplace(_Noise):
    """Laplace mechanism (Dwork et al. 2006); epsilon is ``1 / noise_multiplier``.

    Parameters
    ----------
    noise_multiplier : float
        Scale of the noise over ``sensitivity``.
    sensitivity : float
        Largest L1 distance between the outputs of two neighbouring datasets.
    unit, relation : str
        What two neighbouring datasets differ in, and how.
    """

    name: ClassVar[str] = "laplace"


@dataclass(frozen=True)
class DiscreteLaplace(_Noise):
    """Discrete Laplace (geometric) noise on an integer grid; epsilon ``1 / noise_multiplier``.

    Parameters
    ----------
    noise_multiplier : float
        Scale of the noise over ``sensitivity``.
    sensitivity : float
        Largest L1 distance between the outputs, after they were put on the grid.
    unit, relation : str
        What two neighbouring datasets differ in, and how.
    """

    name: ClassVar[str] = "discrete-laplace"


@dataclass(frozen=True)
class PureDP(_Plain):
    """Any mechanism that is epsilon-DP, such as diffprivlib's estimators.

    Parameters
    ----------
    epsilon : float
        Its epsilon.
    mechanism : str
        Where the guarantee comes from, for people.
    unit, relation : str
        What two neighbouring datasets differ in, and how.
    """

    name: ClassVar[str] = "pure-dp"

    epsilon: float
    mechanism: str = "diffprivlib"
    unit: Unit = "record"
    relation: Relation = "replace-one"

    def __post_init__(self) -> None:
        _positive(epsilon=self.epsilon)
        _stated(self.unit, self.relation)


@dataclass(frozen=True)
class PoissonSampled:
    """A Gaussian event on rows that were each drawn with the same probability, independently.

    Accounted where the event was calibrated under add-or-remove.

    Parameters
    ----------
    sampling_probability : float
        In (0, 1].
    event : Gaussian
        What was done to the drawn rows.
    """

    name: ClassVar[str] = "poisson-sampled"
    charged: ClassVar[bool] = True

    sampling_probability: float
    event: Gaussian

    def __post_init__(self) -> None:
        _positive(sampling_probability=self.sampling_probability)
        if self.sampling_probability > 1:
            raise _invalid("sampling_probability", "at most 1")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "event": self.name,
            "sampling_probability": self.sampling_probability,
            "of": self.event.to_dict(),
        }


@dataclass(frozen=True)
class FixedSizeSampled:
    """A Gaussian event on a fixed number of rows, drawn without replacement.

    Parameters
    ----------
    source_size, sample_size : int
        Rows there are, and rows drawn; both public.
    event : Gaussian
        What was done to the drawn rows, calibrated under replace-one.
    """

    name: ClassVar[str] = "fixed-size-sampled"
    charged: ClassVar[bool] = True

    source_size: int
    sample_size: int
    event: Gaussian

    def __post_init__(self) -> None:
        _positive(source_size=self.source_size, sample_size=self.sample_size)
        if self.sample_size > self.source_size:
            raise _invalid("sample_size", "at most source_size")
        if self.event.relation != "replace-one":
            raise _invalid("relation", "replace-one for samples of fixed size")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "event": self.name,
            "source_size": self.source_size,
            "sample_size": self.sample_size,
            "of": self.event.to_dict(),
        }


Plain = Exact | Gaussian | DiscreteGaussian | Skellam | Laplace | DiscreteLaplace | PureDP
Event = Plain | PoissonSampled | FixedSizeSampled
_PLAIN: dict[str, type[Plain]] = {
    kind.name: kind
    for kind in (Exact, Gaussian, DiscreteGaussian, Skellam, Laplace, DiscreteLaplace, PureDP)
}


def from_dict(values: Mapping[str, Any]) -> Event:
    """Inverse of ``to_dict``.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` for an event that is unknown, malformed or out of range.
    """
    fields = dict(values)
    try:
        name = fields.pop("event")
        if name == PoissonSampled.name:
            inner = from_dict(fields["of"])
            if isinstance(inner, Gaussian):
                return PoissonSampled(fields["sampling_probability"], inner)
        elif name == FixedSizeSampled.name:
            inner = from_dict(fields["of"])
            if isinstance(inner, Gaussian):
                return FixedSizeSampled(fields["source_size"], fields["sample_size"], inner)
        elif name in _PLAIN:
            return _PLAIN[name](**fields)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, PrivacyError):
        pass
    raise PrivacyError(
        "privacy.mechanism",
        "A privacy event is unknown or malformed.",
        "Check that both sides run the same version of folkmoot.",
    )


def _stated(unit: str, relation: str) -> None:
    for name, value, known in (("unit", unit, Unit), ("relation", relation, Relation)):
        if value not in get_args(known):
            raise _invalid(name, f"one of {', '.join(get_args(known))}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value > 0):
            raise _invalid(name, "finite and above 0")


def _invalid(name: str, rule: str) -> PrivacyError:
    return PrivacyError(
        "privacy.mechanism", f"{name} of a privacy event must be {rule}.", f"Mend privacy.{name}."
    )
