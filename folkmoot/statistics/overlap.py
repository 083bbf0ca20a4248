"""Public figures of overlaps: sizes of sets, dummies, and what noise they make."""

from __future__ import annotations

import math

from folkmoot.params import Params

__all__ = ["dummies", "padded", "shift"]

#: Noise beyond the shift falls with probability 2^-64.
_TAIL = 64 * math.log(2)


def shift(params: Params) -> int:
    """Dummies that stand for no noise: noise of up to this many people less can be made."""
    epsilon = params.statistics.overlap_epsilon
    return 0 if epsilon is None else math.ceil(_TAIL / epsilon)


def padded(params: Params) -> int:
    """Points of every set: most people, and both sites' dummies."""
    return params.statistics.overlap_size + 4 * shift(params)


def dummies(params: Params, of: str, partner: str) -> list[bytes]:
    """Items that stand for a site's noise towards a partner, who has all of them.

    No identifier is spelt like one: they begin with a byte that no text has.
    """
    return [
        b"\xff%s\0%s\0%d" % (of.encode(), partner.encode(), i) for i in range(2 * shift(params))
    ]
