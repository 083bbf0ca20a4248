"""Real values on a grid, so that the integer noise is all the noise there is.

A value is rounded to a multiple of ``step``, a power of two, and integer noise is added there: the
sum is exact, and its low bits tell nothing about the value.  Rounding moves outputs of neighbouring
datasets further apart by at most one step per number (two where rounding is random), which the
sensitivity has to include: :func:`rounded_sensitivity`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from folkmoot.errors import PrivacyError
from folkmoot.privacy.noise.discrete_gaussian import discrete_gaussian
from folkmoot.privacy.noise.discrete_laplace import discrete_laplace
from folkmoot.privacy.noise.entropy import Entropy

__all__ = ["add_gaussian", "add_laplace", "on_grid", "rounded_sensitivity", "step_below"]

#: Largest integer that a value may become: exact in a float, with room for noise in 64 bits.
_LARGEST = 2.0**52


def step_below(size: float) -> float:
    """Largest power of two that is at most ``size`` (above 0, finite)."""
    return 2.0 ** math.floor(math.log2(size))


def rounded_sensitivity(
    sensitivity: float,
    step: float,
    dimension: int,
    *,
    norm: Literal[1, 2] = 2,
    random: bool = False,
) -> float:
    """Sensitivity of a vector after its numbers were rounded to a grid.

    Parameters
    ----------
    sensitivity : float
        Before rounding, in the units of the data.
    step : float
        Of the grid.
    dimension : int
        How many numbers the vector has.
    norm : {1, 2}
        Which norm bounds it.
    random : bool
        Whether numbers are rounded at random to either neighbour instead of the nearest.

    Returns
    -------
    float
        At most ``sensitivity + step · dimension`` (L1) or ``+ step · sqrt(dimension)`` (L2),
        twice the second term where rounding is random; in the units of the data.
    """
    each = 2 * step if random else step
    return sensitivity + each * (dimension if norm == 1 else math.sqrt(dimension))


def on_grid(values: ArrayLike, step: float) -> NDArray[np.int64]:
    """Nearest multiples of ``step`` (a power of two), as integers.

    Raises
    ------
    PrivacyError
        ``privacy.mechanism`` for a step that is no power of two, and values that are not finite or
        beyond 2^52 steps.
    """
    if not (step > 0 and math.isfinite(step)) or math.frexp(step)[0] != 0.5:
        raise _refused("The step of a grid must be a power of two.", "Use step_below.")
    scaled = np.asarray(values, np.float64) / step  # exact: only the exponent changes
    if not (np.abs(scaled) <= _LARGEST).all():
        raise _refused(
            "A value does not fit the grid of its noise.", "Clip it, or coarsen the grid."
        )
    return np.rint(scaled).astype(np.int64)


def add_gaussian(
    values: ArrayLike, deviation: float, step: float, entropy: Entropy | None = None
) -> NDArray[np.float64]:
    """Values on the grid plus discrete Gaussian noise of a standard deviation; O(values).

    Parameters
    ----------
    values : array_like of float
        Clipped; of the sensitivity that the event states once rounded.
    deviation : float
        In the units of the values; at least one step.
    step : float
        Power of two.
    entropy : Entropy, optional
        The operating system's by default.

    Returns
    -------
    ndarray of float64
        Multiples of ``step``.

    Notes
    -----
    Privacy cost: ``DiscreteGaussian(deviation / sensitivity, sensitivity, steps=deviation / step)``.
    """
    whole = on_grid(values, step)
    noise = discrete_gaussian(_steps(deviation, step), whole.shape, entropy)
    return np.asarray((whole + noise) * step, np.float64)


def add_laplace(
    values: ArrayLike, scale: float, step: float, entropy: Entropy | None = None
) -> NDArray[np.float64]:
    """Values on the grid plus discrete Laplace noise; O(values).

    As :func:`add_gaussian`; privacy cost ``DiscreteLaplace(scale / sensitivity, sensitivity)``, with
    the L1 sensitivity after rounding: pure epsilon ``sensitivity / scale``.
    """
    whole = on_grid(values, step)
    noise = discrete_laplace(_steps(scale, step), whole.shape, entropy)
    return np.asarray((whole + noise) * step, np.float64)


def _steps(size: float, step: float) -> Fraction:
    if not math.isfinite(size) or size < step:
        raise _refused(
            "Noise must be finite and at least one step of its grid.", "Refine the grid."
        )
    return Fraction(size) / Fraction(step)


def _refused(message: str, remedy: str) -> PrivacyError:
    return PrivacyError("privacy.mechanism", message, remedy)
