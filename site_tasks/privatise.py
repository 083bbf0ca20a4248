"""The privatise step: bounds and noise on what a site contributes, as the plan says.

This module is the only door to a ``PrivatisedUpdate``.  What each mechanism promises:

``none``        nothing; every part leaves exactly and its event says so.
``clip``        the update's L2 norm is bounded (per-site clipping); still no guarantee.
``gaussian``    the update is clipped to C and gets Gaussian noise of deviation z S per number with
                S = 2 C: any change of its rows moves the clipped update by at most 2 C.
``diffprivlib`` the estimator itself was private: :class:`TrainedPrivately` alone is accepted.

That is clipping ``site``, where sums and counts (scaling statistics, evaluation on held-out rows)
leave exactly, and the receipt names them as not accounted for.  Under clipping ``record`` a
:class:`ClippedSum` alone is accepted, evaluation included: it gets discrete Gaussian noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import PrivacyError, RoundError
from folkmoot.params import Privacy
from folkmoot.privacy.events import Event, Exact, PureDP
from folkmoot.privacy.noise import Entropy, discrete_gaussian
from folkmoot.privacy.noise.grid import step_below
from folkmoot.privacy.planned import Release
from folkmoot.privacy.release import charge
from folkmoot.updates import (
    PRIVATISED_DOOR,
    LinearUpdate,
    Part,
    PrivatisedUpdate,
    Statistics,
    TreeUpdate,
)

__all__ = ["ClippedSum", "Raw", "Sealed", "TrainedPrivately", "privatise", "seed_of"]

Array = NDArray[np.float64]
#: Noise and clipped values lie on a grid of at most this share of the noise's standard deviation.
_STEP = 2.0**-15
#: Most steps of the clip norm: values, noise and their sums are then exact in float64.
_MOST_STEPS = 2.0**48


@dataclass(frozen=True)
class TrainedPrivately:
    """An update of an estimator that is differentially private itself.

    Parameters
    ----------
    update : LinearUpdate or TreeUpdate
        Weight 1.
    event : PureDP
        What training spent, as the estimator's own accountant reported it.
    """

    update: LinearUpdate | TreeUpdate
    event: PureDP


@dataclass(frozen=True)
class ClippedSum:
    """A sum over records that were each clipped on the integer grid (``site_tasks.private``).

    Parameters
    ----------
    values : ndarray of int64, shape (m,)
        Whole steps.
    release : Release
        What was summed, and the noise that is planned for it.
    share : float
        Standard deviation of the noise that this site adds, over the planned one: 1 where it adds
        all of it, 0 where the coordinator does.
    """

    values: NDArray[np.int64]
    release: Release
    share: float


@dataclass(frozen=True)
class Sealed:
    """What only other sites can open, and together make one public figure of (``site_tasks.measure``).

    Parameters
    ----------
    arrays : dict of str to ndarray of uint8
        Boxes, or points of a group whose logarithms nobody knows.
    event : Event
        What that figure costs this site: the noise is in what the boxes hold.
    """

    arrays: Mapping[str, NDArray[np.uint8]]
    event: Event


#: What a step may hand to privatise.
Raw = Part | TrainedPrivately | ClippedSum | Sealed


def privatise(
    parts: Mapping[str, Raw],
    privacy: Privacy,
    *,
    seed: bytes | None = None,
) -> PrivatisedUpdate:
    """Clip and noise the parts of a release; O(numbers).

    Parameters
    ----------
    parts : mapping of str to part
        At most one of them is an update, the others are statistics (or noised counts).
    privacy : Privacy
        As planned.
    seed : bytes, optional
        Of the noise, where ``privacy.seeded`` and the site permits it; else the operating system's
        entropy is used, anew with every call.

    Returns
    -------
    PrivatisedUpdate
        With one event per part.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` where the mechanism cannot give its guarantee for a part;
        ``privacy.seeded`` for a seed that does not fit ``privacy.seeded``.
    RoundError
        ``round.diverged`` for numbers that are not finite, under ``none`` and ``clip``.
    """
    if (seed is not None) != privacy.seeded:
        raise PrivacyError(
            "privacy.seeded",
            "Noise from a seed is drawn where privacy.seeded asks for it, and nowhere else.",
            "Set privacy.seeded for a study that is marked not private, or leave the seed out.",
        )
    if sum(map(_is_update, parts.values())) > 1:
        raise _unsupported("One release carries one update.", "Release the updates apart.")
    out: dict[str, Part] = {}
    events: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        if isinstance(part, Sealed):
            out[name], events[name] = Statistics(part.arrays), part.event.to_dict()
            continue
        one = _summed if privacy.clipping == "record" else _part
        out[name], event = one(part, privacy, seed)
        events[name] = event.to_dict()
    return PrivatisedUpdate(PRIVATISED_DOOR, out, events)


def _is_update(part: Raw) -> bool:
    if isinstance(part, ClippedSum):
        return part.release.kind != "statistics"
    return not isinstance(part, Statistics | Sealed)


def _part(part: Raw, privacy: Privacy, seed: bytes | None) -> tuple[Part, Event]:
    if isinstance(part, Statistics):
        if privacy.private and privacy.evaluates != "exact":
            raise _unsupported(
                "Exact counts do not leave under a mechanism that claims differential privacy.",
                "Set privacy.evaluation to none, or privacy.clipping to record.",
            )
        return _finite(part), Exact()
    if isinstance(part, ClippedSum):
        raise _unsupported(
            "A sum of clipped records leaves under clipping record alone.",
            "Set privacy.clipping to record.",
        )
    if isinstance(part, TrainedPrivately):
        if privacy.mechanism != "diffprivlib" or part.event != PureDP(privacy.epsilon or 0.0):
            raise _unsupported(
                "Training spent another budget than the plan's.",
                "Set privacy.mechanism diffprivlib.",
            )
        _uniform(part.update)
        return _finite(part.update), part.event
    if privacy.mechanism == "none":
        return _finite(part), Exact()
    if not isinstance(part, LinearUpdate):
        raise _unsupported(
            f"Whole trees have no norm to bound: mechanism {privacy.mechanism} does not apply.",
            "Set privacy.mechanism to none for model.kind trees.",
        )
    if privacy.mechanism == "diffprivlib":
        raise _unsupported(
            "An update that was not trained with diffprivlib cannot leave under its name.",
            "Set model.linear.strategy to local_dp.",
        )
    if "hessian" in part.arrays:
        raise _unsupported(
            f"Mechanism {privacy.mechanism} bounds a site's whole update: a sum of gradients and "
            "Hessians over rows has no useful bound of that kind.",
            "Set model.linear.strategy to fedavg, or privacy.mechanism to none.",
        )
    if privacy.mechanism == "clip":
        return _clipped(_finite(part), privacy.clip_norm), Exact(privacy.clip_norm)
    _uniform(part)
    return _noised(part, privacy, seed), charge(privacy)["update"]


def _summed(part: Any, privacy: Privacy, seed: bytes | None) -> tuple[Part, Event]:
    """Discrete Gaussian noise on a sum of clipped records (Canonne, Kamath & Steinke 2020).

    Nothing else leaves under clipping ``record``: neither exact counts nor a whole update.
    """
    if not isinstance(part, ClippedSum):
        raise _unsupported(
            "Clipping record lets sums of clipped records leave, and nothing else.",
            "Set privacy.evaluation to noised or none, and model.linear.strategy to private.",
        )
    placed = {"site": part.share == 1, "distributed": 0 < part.share <= 1}
    if not placed.get(privacy.noise, part.share == 0) or part.values.dtype != np.int64:
        raise _unsupported(
            "The noise of a sum is not placed as the plan says.",
            "Check that coordinator and site run the same version of folkmoot.",
        )
    values = part.values
    if part.share:
        deviation = part.release.deviation * part.share
        values = values + discrete_gaussian(deviation, values.shape, Entropy(seed))
    if part.release.kind in {"evaluation", "statistics"}:
        return Statistics({"counts": values}), part.release.event
    return LinearUpdate({"sum": values}, 1.0), part.release.event


def _clipped(part: LinearUpdate, norm: float) -> LinearUpdate:
    """Scaled so that the L2 norm of all its arrays together is at most ``norm``."""
    flat = _flat(part)
    found = _norm(flat)
    return _like(part, flat * _shrink(found, norm)) if found > norm else part


def _noised(part: LinearUpdate, privacy: Privacy, seed: bytes | None) -> LinearUpdate:
    """Discrete Gaussian noise on the clipped update, on a grid (Canonne, Kamath & Steinke 2020).

    Clipped values are cut to multiples of one power of two and get whole steps of noise, so that
    the sum is exact and its low bits tell nothing of the value below the noise (Mironov 2012).  The
    event says ``gaussian``: a discrete Gaussian of variance v is at least as private as the
    continuous one of v - 5 squared steps, and a deviation of 2^15 steps or more, a hundred-millionth
    above the claimed one, has 21 to spare.

    Cut towards zero, no update grows: the norm of what gets the noise is at most C for any input;
    what is lost lies four orders of magnitude below the noise.  An update that is not finite counts
    as zero, so that the mechanism is total.
    """
    norm = privacy.clip_norm
    deviation = privacy.noise_multiplier * 2 * norm
    grid = step_below(deviation * _STEP)
    if norm / grid > _MOST_STEPS:
        raise _unsupported(
            "The noise is too small for sums with it to be exact.",
            "Choose a noise_multiplier above a billionth.",
        )
    flat = _flat(part)
    found = _norm(flat)
    if not math.isfinite(found):
        flat, found = np.zeros_like(flat), 0.0
    flat *= _shrink(found, norm) / grid  # dividing by a power of two rounds nothing
    np.trunc(flat, out=flat)
    flat += discrete_gaussian(deviation / grid * (1 + 1e-8), flat.size, Entropy(seed))
    flat *= grid
    return _like(part, flat)


def seed_of(privacy: Privacy, release_id: str) -> bytes | None:
    """Seed of one release where the plan is ``seeded``, else None."""
    if not privacy.seeded:
        return None
    return hashlib.sha256(f"folkmoot-seed\0{privacy.seed}\0{release_id}".encode()).digest()


def _flat(part: LinearUpdate) -> Array:
    arrays = [np.asarray(part.arrays[name], np.float64).ravel() for name in sorted(part.arrays)]
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _like(part: LinearUpdate, flat: Array) -> LinearUpdate:
    arrays: dict[str, Array] = {}
    start = 0
    for name in sorted(part.arrays):
        shape = np.shape(part.arrays[name])
        size = math.prod(shape)
        arrays[name] = flat[start : start + size].reshape(shape)
        start += size
    return LinearUpdate(arrays, part.weight)


def _norm(flat: Array) -> float:
    """L2 norm, without overflow of the squares; not finite where a number is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(flat @ flat)
    if 1e-200 < squares < math.inf:
        return math.sqrt(squares)
    largest = float(np.abs(flat).max(initial=0.0))
    if not 0 < largest < math.inf:
        return largest
    return largest * float(np.linalg.norm(flat / largest))


def _shrink(found: float, norm: float) -> float:
    """Factor that brings a vector of norm ``found`` to at most ``norm``."""
    # A billionth less: more than all rounding of the norm and of the product.
    return norm / found * (1 - 1e-9) if found > norm * (1 - 1e-9) else 1.0


def _finite(part: Any) -> Any:
    if isinstance(part, TreeUpdate):
        return part
    for array in part.arrays.values():
        if np.asarray(array).dtype.kind == "f" and not np.isfinite(array).all():
            raise RoundError(
                "round.diverged",
                "Local training gave numbers that are not finite; nothing was released.",
                "Lower model.linear.learning_rate, or check data.scaling.",
            )
    return part


def _uniform(part: LinearUpdate | TreeUpdate) -> None:
    if part.weight != 1.0:
        raise _unsupported(
            "A private update must have weight 1: a number of rows is not accounted for.",
            "Set aggregation.weighting to uniform.",
        )


def _unsupported(message: str, remedy: str) -> PrivacyError:
    return PrivacyError("privacy.mechanism", message, remedy)
