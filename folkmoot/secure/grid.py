"""Fixed point over Z_2^64, or Z_2^32 where the bound proves it enough.

A real number becomes a whole number of steps of ``2^-exponent``; a negative one its complement
modulo ``2^bits``.  Sums of whole numbers are exact and independent of order, so that a masked sum
equals the unmasked one bit for bit, and the sensitivity of a sum is what was clipped, exactly.

**No overflow.**  Let every contribution satisfy ``|v| <= limit`` (``limit = largest weight · clip``
for weighted values), be rounded to a neighbouring step, and get at most ``headroom`` steps of noise.
Its integer is then at most ``most = ceil(limit · 2^exponent) + headroom`` in absolute value, and the
sum of any ``k <= contributors`` of them at most ``contributors · most``.  A grid is only made where
``contributors · most <= 2^(bits-1) - 1``, in exact rational arithmetic: the sum modulo ``2^bits``
then determines the sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from folkmoot.errors import ConfigError, SecureError

__all__ = ["Grid", "Rounding"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Ring = NDArray[np.uint64] | NDArray[np.uint32]
Rounding = Literal["stochastic", "truncate", "nearest"]

#: Numbers per block: a block and its temporaries stay in a core's cache.
_BLOCK = 1 << 15
#: Finer steps than this have no use for float64 values of ordinary size, and would be subnormal.
_FINEST = 256
#: Bits of chance in a stochastic rounding, and the size of numbers up to which they fit beside them.
_CHANCE = 16
_ROOM = 2.0 ** (62 - _CHANCE)


@dataclass(frozen=True)
class Grid:
    """A ring, a step and the bound under which sums cannot overflow.

    Parameters
    ----------
    bits : {32, 64}
        Modulus ``2^bits``.
    exponent : int
        The step is ``2^-exponent``; 0 for counts.
    limit : float
        Largest absolute value of a number in one contribution, weight included.
    contributors : int
        Most contributions in a sum.
    headroom : int
        Steps that one contribution may be moved by noise added on the grid.

    Raises
    ------
    ConfigError
        ``config.invalid`` where a sum could overflow.
    """

    bits: Literal[32, 64]
    exponent: int
    limit: float
    contributors: int
    headroom: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (32, 64) or abs(self.exponent) > _FINEST:
            raise _unfit("A grid has 32 or 64 bits and a step between 2^-256 and 2^256.")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise _unfit("The largest value of a contribution must be finite and above zero.")
        if self.contributors < 1 or self.headroom < 0:
            raise _unfit("A sum has at least one contributor, and noise has a bound.")
        if self.contributors * self.most > self.largest:
            raise _unfit(
                f"{self.contributors} contributions of up to {self.limit:g} in steps of "
                f"2^-{self.exponent} could overflow 2^{self.bits}."
            )

    @staticmethod
    def fit(
        limit: float,
        contributors: int,
        *,
        bits: Literal[32, 64] = 64,
        headroom: int = 0,
        finest: int = _FINEST,
    ) -> Grid:
        """The grid with the smallest step for which no sum overflows.

        Parameters
        ----------
        limit, contributors, bits, headroom
            As of the class.
        finest : int
            The step is never smaller than ``2^-finest``.

        Raises
        ------
        ConfigError
            ``config.invalid`` where no step fits.
        """
        if not (math.isfinite(limit) and limit > 0 and contributors >= 1 and headroom >= 0):
            raise _unfit("A grid needs a positive finite limit, contributors and a bound of noise.")
        room = (2 ** (bits - 1) - 1) // contributors - headroom
        if room < 1:
            raise _unfit(f"{contributors} contributions with this noise do not fit 2^{bits}.")
        # The largest e with ceil(limit 2^e) <= room, that is limit 2^e <= room.
        ratio = Fraction(room) / Fraction(limit)
        exponent = ratio.numerator.bit_length() - ratio.denominator.bit_length()
        if Fraction(2) ** exponent > ratio:
            exponent -= 1
        return Grid(bits, max(-_FINEST, min(exponent, finest)), limit, contributors, headroom)

    @staticmethod
    def smallest(limit: float, contributors: int, *, step: float, headroom: int = 0) -> Grid:
        """A grid of 2^32 where a step of at most ``step`` fits there, else of 2^64.

        The step taken is the largest power of two not above ``step``.

        Raises
        ------
        ConfigError
            ``config.invalid`` where not even 2^64 has steps that small.
        """
        if not (math.isfinite(step) and step > 0):
            raise _unfit("A step is positive and finite.")
        wanted = -math.floor(math.log2(step))
        for bits in (32, 64):
            try:
                return Grid(bits, wanted, limit, contributors, headroom)
            except ConfigError:
                if bits == 64:
                    raise
        raise AssertionError

    @property
    def step(self) -> float:
        """Distance of neighbouring numbers of the grid."""
        return 2.0**-self.exponent

    @property
    def most(self) -> int:
        """Largest absolute value of a contribution's integer, noise included."""
        return math.ceil(Fraction(self.limit) * Fraction(2) ** self.exponent) + self.headroom

    @property
    def largest(self) -> int:
        """Largest sum that the ring can tell from a negative one."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint64 or uint32."""
        return np.dtype(np.uint64 if self.bits == 64 else np.uint32)

    def error_bound(self, contributors: int, rounding: Rounding = "stochastic") -> float:
        """Largest absolute error of a decoded sum of ``contributors`` by quantisation alone."""
        return contributors * self.step * (0.5 if rounding == "nearest" else 1.0)

    def integers(
        self,
        values: NDArray[Any],
        rounding: Rounding,
        *,
        seed: bytes | None = None,
        outside: Literal["clip", "refuse"] = "refuse",
    ) -> Integers:
        """Whole numbers of steps; O(numbers).

        Parameters
        ----------
        values : ndarray of float64 or float32, any shape
            Weighted values.
        rounding : {"stochastic", "truncate", "nearest"}
            ``stochastic``: to one of the two neighbours, unbiased to 2^-16 steps; not under
            differential privacy, as it can move a record's share away from zero.  ``truncate``:
            towards zero, so that no norm grows.
        seed : bytes, 16 or more
            Of the stochastic rounding.  It may be public: rounding protects nothing, and equal
            seeds let a retry give equal numbers.
        outside : {"refuse", "clip"}
            What becomes of values beyond ``limit``; NaN and infinity are refused always.

        Returns
        -------
        ndarray of int64, same shape

        Raises
        ------
        SecureError
            ``secure.range``; no value is named.
        """
        source = np.ascontiguousarray(values, np.float64).ravel()
        out = np.empty(source.size, np.int64)
        random = _uniform(seed) if rounding == "stochastic" else None
        factor = 2.0**self.exponent
        work = np.empty(min(_BLOCK, source.size))
        for start in range(0, source.size, _BLOCK):
            block = source[start : start + _BLOCK]
            x = work[: block.size]
            largest = max(float(block.max()), -float(block.min()))
            if not largest <= self.limit:  # NaN is not
                if not math.isfinite(largest):
                    raise _range("holds numbers that are not finite")
                if outside == "refuse":
                    raise _range("holds numbers beyond the limit that its sum was proven for")
                block = np.clip(block, -self.limit, self.limit)
            if random is not None and largest * factor < _ROOM:
                # floor(x + u) with 16 bits of u below the point, in whole numbers.
                y = out[start : start + block.size]
                np.multiply(block, factor * 2.0**_CHANCE, out=x)
                np.copyto(y, x, casting="unsafe")
                np.add(y, random(block.size), out=y)
                np.right_shift(y, _CHANCE, out=y)
                continue
            np.multiply(block, factor, out=x)
            if rounding == "truncate":
                np.trunc(x, out=x)
            elif rounding == "nearest":
                np.rint(x, out=x)
            elif random is not None:
                low = np.floor(x)
                np.subtract(x, low, out=x)  # exact
                np.add(low, random(block.size) * 2.0**-_CHANCE < x, out=x)
            out[start : start + block.size] = x
        return out.reshape(np.shape(values))

    def clip_rows(self, vectors: NDArray[Any], norm: float) -> Integers:
        """Each row scaled to an L2 norm of at most ``norm`` and truncated towards zero; O(numbers).

        The sum of squares of a row of the result is at most ``(norm / step)^2`` for any input, so
        one record changes a sum by no more than that: this is the sensitivity, exactly.  A row that
        is not finite counts as zero, so that the mechanism is total.

        Parameters
        ----------
        vectors : ndarray of float64, shape (n, d)
            One row per record.
        norm : float
            Clip norm.

        Returns
        -------
        ndarray of int64, shape (n, d)
        """
        x = np.array(vectors, np.float64, ndmin=2)
        size = np.abs(x).max(axis=1, initial=0.0)
        x[~np.isfinite(size)] = 0.0
        size[~(np.isfinite(size) & (size > 0))] = 1.0
        x /= size[:, None]
        # The float norm is off by a relative (d + 4) 2^-53 at most; the slack is above twice that,
        # and the last factor covers the roundings of quotient, product and scale.
        slack = 1.0 - (x.shape[1] + 16) * 2.0**-51
        length = np.sqrt(np.einsum("ij,ij->i", x, x))
        with np.errstate(over="ignore"):
            inside = length * size <= norm * slack
        room = norm * slack / np.maximum(length, 1.0)  # a row's largest number is 1 by now
        x *= np.where(inside, size, room)[:, None]
        x *= 2.0**self.exponent
        return np.trunc(x).astype(np.int64)

    def ring(self, integers: NDArray[Any]) -> Ring:
        """Whole numbers modulo ``2^bits``."""
        wide = np.ascontiguousarray(integers, np.int64).view(np.uint64)
        return wide if self.bits == 64 else wide.astype(np.uint32)

    def encode(
        self,
        values: NDArray[Any],
        rounding: Rounding,
        *,
        seed: bytes | None = None,
        outside: Literal["clip", "refuse"] = "refuse",
    ) -> Ring:
        """:meth:`ring` of :meth:`integers`."""
        return self.ring(self.integers(values, rounding, seed=seed, outside=outside))

    def centred(self, total: Ring) -> Integers:
        """The sum that a ring element stands for, between ``-2^(bits-1)`` and ``2^(bits-1) - 1``."""
        signed = np.int64 if self.bits == 64 else np.int32
        return np.ascontiguousarray(total, self.dtype).view(signed).astype(np.int64)

    def decode(self, total: Ring) -> Floats:
        """Real numbers of a sum; exact up to ``2^53`` steps, then rounded to float64."""
        return np.multiply(self.centred(total), self.step, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "bits": self.bits,
            "exponent": self.exponent,
            "limit": self.limit,
            "contributors": self.contributors,
            "headroom": self.headroom,
        }


def _uniform(seed: bytes | None) -> Any:
    """Uniform numbers of 16 bits, from AES-CTR under the first 16 bytes of ``seed``."""
    if seed is None or len(seed) < 16:
        raise ValueError("stochastic rounding needs a seed of at least 16 bytes")
    stream = Cipher(AES(seed[:16]), CTR(bytes(16))).encryptor()
    zeros, bits = bytes(2 * _BLOCK), np.empty(_BLOCK, np.uint16)

    def draw(n: int) -> NDArray[np.uint16]:
        stream.update_into(memoryview(zeros)[: 2 * n], bits[:n].view(np.uint8).data)
        return bits[:n]

    return draw


def _range(what: str) -> SecureError:
    return SecureError(
        "secure.range",
        f"A contribution to a secure sum {what}; nothing was sent.",
        "Lower model.linear.learning_rate, check data.scaling, or raise the limit in aggregation.",
    )


def _unfit(message: str) -> ConfigError:
    return ConfigError(
        "config.invalid",
        message,
        "Use 64 bits, a coarser step, or smaller limits of weight and value.",
    )
