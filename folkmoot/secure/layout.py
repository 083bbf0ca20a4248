"""How the parts of a release become one vector of a ring, and a sum of vectors parts again.

A contribution is one vector of numbers of 64 bits, and one of 32 bits where averaged values stay below
a public bound and 32 bits prove fine enough (``Limits.step``).  Blocks follow the sorted names of parts
and arrays.  Whole numbers travel as they are; real ones on
a :class:`~folkmoot.secure.grid.Grid` of their own; changes of a model (``delta``) are multiplied by
the site's weight, which is the last number of its part: a weighted mean is one sum of ``[w x, w]``.
All sites of a sum have the same layout, which is public: it depends on params and contract alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError, SecureError
from folkmoot.secure.grid import Grid
from folkmoot.wire import canonical_json, digest

__all__ = ["Block", "Layout", "Limits", "Ring"]

Array = NDArray[Any]
#: Vectors by name: ``masked`` of 64 bits, ``narrow`` of 32 bits where there is one.
Ring = dict[str, Array]
_RINGS = {64: "masked", 32: "narrow"}
#: Arrays that are averaged by weight; all others are summed as they are.
AVERAGED = frozenset({"delta", "control"})


@dataclass(frozen=True)
class Limits:
    """Bounds that the proof of no overflow rests on; public.

    Parameters
    ----------
    sites : int
        Most contributors.
    value : float
        Largest absolute value of a number that is averaged (or of a row's share of a sum).
    weight : float
        Largest weight of a site: its training rows, or 1.
    rows : float
        Most rows behind a sum of a site.
    step : float, optional
        Largest step of averaged values that is fine enough; without one, 64 bits are always taken.
    """

    sites: int
    value: float
    weight: float
    rows: float
    step: float | None = None


@dataclass(frozen=True)
class Block:
    """One array of one part."""

    part: str
    array: str
    shape: tuple[int, ...]
    whole: bool
    weighted: bool
    grid: Grid
    #: Per number of the last axis, an exponent of two that it is divided by before the grid.
    units: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "part": self.part,
            "array": self.array,
            "shape": list(self.shape),
            "whole": self.whole,
            "weighted": self.weighted,
            "grid": self.grid.to_dict(),
            "units": None if self.units is None else list(self.units),
        }


@dataclass(frozen=True)
class Layout:
    """Blocks of one sum, and the kind of every part."""

    kinds: Mapping[str, str]
    blocks: tuple[Block, ...]

    @staticmethod
    def of(
        parts: Mapping[str, tuple[str, Mapping[str, Array]]],
        limits: Limits,
        units: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> Layout:
        """Layout of parts.

        Parameters
        ----------
        parts : dict of str to (str, dict of str to ndarray)
            Kind (``linear`` or ``statistics``) and arrays by name of the part.
        limits : Limits
        units : dict of str to ndarray of int64, optional
            By array of a ``statistics`` part, the exponents of two of what one row may add.
        """
        blocks = []
        for part in sorted(parts):
            kind, arrays = parts[part]
            for name in sorted(arrays):
                array = np.asarray(arrays[name])
                own = None if units is None or kind != "statistics" else units.get(name)
                blocks.append(_block(part, name, array, kind == "linear", limits, own))
            if kind == "linear":
                grid = Grid.fit(limits.weight, limits.sites, finest=20)
                blocks.append(Block(part, "", (), False, False, grid))
        return Layout({part: kind for part, (kind, _) in parts.items()}, tuple(blocks))

    @property
    def size(self) -> int:
        """Numbers of the vector of 64 bits."""
        return sum(block.size for block in self.blocks if block.grid.bits == 64)

    @property
    def narrow(self) -> int:
        """Numbers of the vector of 32 bits."""
        return sum(block.size for block in self.blocks if block.grid.bits == 32)

    def zeros(self) -> Ring:
        """A contribution of nothing: one vector per modulus."""
        return {name: np.zeros(size, dtype) for name, (dtype, size) in self.vectors().items()}

    def vectors(self) -> dict[str, tuple[type[np.unsignedinteger[Any]], int]]:
        """Type and length of the vectors of a contribution, by name."""
        wide = {"masked": (np.uint64, self.size)}
        return {**wide, "narrow": (np.uint32, self.narrow)} if self.narrow else wide

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kinds": dict(self.kinds), "blocks": [block.to_dict() for block in self.blocks]}

    @staticmethod
    def from_dict(values: Any) -> Layout:
        """Inverse of :meth:`to_dict`; raises ProtocolError ``protocol.format``."""
        try:
            blocks = []
            for entry in values["blocks"]:
                shape = tuple(entry["shape"])
                units = None if entry["units"] is None else tuple(entry["units"])
                grid = Grid(**entry["grid"])
                if not all(type(n) is int and 0 <= n < 2**40 for n in shape):
                    raise ValueError
                if units is not None and not all(type(n) is int and abs(n) < 512 for n in units):
                    raise ValueError
                rest = (bool(entry["whole"]), bool(entry["weighted"]), grid, units)
                blocks.append(Block(str(entry["part"]), str(entry["array"]), shape, *rest))
            kinds = {str(part): str(kind) for part, kind in values["kinds"].items()}
            if not {block.part for block in blocks} <= kinds.keys():
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ProtocolError(
                "protocol.format",
                "A secure sum is laid out in a way that this side does not know.",
                "Check that all sites run the same version of folkmoot.",
            ) from None
        return Layout(kinds, tuple(blocks))

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON."""
        return digest(canonical_json(self.to_dict()))

    def encode(
        self,
        parts: Mapping[str, Mapping[str, Array]],
        weights: Mapping[str, float],
        seed: bytes,
        *,
        outside: Literal["clip", "refuse"],
    ) -> Ring:
        """One contribution, a vector per modulus (``masked``, ``narrow``); O(numbers).

        Parameters
        ----------
        parts : dict of str to dict of str to ndarray
        weights : dict of str to float
            Of the parts of kind ``linear``.
        seed : bytes
            Of stochastic rounding; may be public.
        outside : {"clip", "refuse"}
            What becomes of averaged values beyond the limit; all others are refused.

        Raises
        ------
        SecureError
            ``secure.range``.
        """
        out, starts = self.zeros(), {64: 0, 32: 0}
        for block in self.blocks:
            start = starts[block.grid.bits]
            starts[block.grid.bits] += block.size
            into = out[_RINGS[block.grid.bits]][start : start + block.size]
            if not block.array:
                array: Array = np.array(weights[block.part])
            else:
                array = np.asarray(parts[block.part][block.array])
            if block.whole:
                into[:] = _whole(array, block.grid)
                continue
            values = array.astype(np.float64, copy=False)
            if block.weighted and weights[block.part] != 1.0:
                values = values * weights[block.part]
            if block.units is not None:
                values = np.ldexp(values, -np.array(block.units))
            own = hashlib.sha256(seed + f"\0{block.part}\0{block.array}".encode()).digest()
            clip = outside if block.weighted else "refuse"
            into[:] = block.grid.encode(values.ravel(), "stochastic", seed=own, outside=clip)
        return out

    def decode(self, total: Ring) -> tuple[dict[str, dict[str, Array]], dict[str, float]]:
        """Parts and weights of a sum: averaged arrays as means, the others as sums; O(numbers).

        Raises
        ------
        SecureError
            ``secure.range`` for weights that do not add up to more than zero.
        """
        parts: dict[str, dict[str, Array]] = {part: {} for part in self.kinds}
        weights: dict[str, float] = {}
        averaged: list[tuple[str, str]] = []
        starts = {64: 0, 32: 0}
        for block in self.blocks:
            start = starts[block.grid.bits]
            starts[block.grid.bits] += block.size
            ring = total[_RINGS[block.grid.bits]][start : start + block.size]
            if not block.array:
                weights[block.part] = float(block.grid.decode(ring)[0])
                continue
            values: Array = block.grid.centred(ring) if block.whole else block.grid.decode(ring)
            values = values.reshape(block.shape)
            if block.units is not None:
                # Units of a single number are an array of one.
                values = np.ldexp(values, np.array(block.units)).reshape(block.shape)
            parts[block.part][block.array] = values
            if block.weighted:
                averaged.append((block.part, block.array))
        if not all(weight > 0 for weight in weights.values()):
            raise SecureError(
                "secure.range",
                "The weights of a secure sum do not add up to more than zero.",
                "Look for a site that contributes no rows.",
            )
        for part, name in averaged:
            parts[part][name] = parts[part][name] / weights[part]
        return parts, weights

    def error_bounds(self, contributors: int) -> dict[str, float]:
        """Largest error by quantisation of every array's sum, in its own units."""
        return {
            f"{block.part}.{block.array or 'weight'}": 0.0
            if block.whole
            else block.grid.error_bound(contributors) * 2.0 ** max(block.units or (0,))
            for block in self.blocks
        }


def _block(part: str, name: str, array: Array, linear: bool, limits: Limits, units: Any) -> Block:
    if array.dtype.kind in "iu":
        grid = Grid(64, 0, float(2 ** (62 - limits.sites.bit_length())), limits.sites)
        return Block(part, name, array.shape, True, False, grid)
    weighted = linear and name in AVERAGED
    limit = limits.value * (limits.weight if weighted else limits.rows)
    if units is not None:  # in these units a row adds at most 1
        limit = limits.rows
    exponents = None if units is None else tuple(int(n) for n in np.atleast_1d(units))
    grid = Grid.fit(limit, limits.sites)
    if weighted and limits.step is not None:
        narrow = Grid.fit(limit, limits.sites, bits=32)
        grid = narrow if narrow.step <= limits.step else grid
    return Block(part, name, array.shape, False, weighted, grid, exponents)


def _whole(array: Array, grid: Grid) -> NDArray[np.uint64]:
    numbers = array.astype(np.int64).ravel()
    if numbers.size and max(int(numbers.max()), -int(numbers.min())) > grid.most:
        raise SecureError(
            "secure.range",
            "A count of a secure sum is larger than its ring has room for; nothing was sent.",
            "Check the site's dataset and the plan's noise.",
        )
    return numbers.view(np.uint64)
