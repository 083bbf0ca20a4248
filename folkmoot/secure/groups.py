"""Random groups of a run's sites: each has a sum of its own, and a robust rule compares the sums.

Who is with whom follows from a hash of the key list and the member list, which are fixed before
anybody knows the groups; they stay for the run.  New groups every round would let the coordinator take
sums apart: updates change little from round to round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

__all__ = ["group_of", "groups_of"]


def groups_of(listed: str, members: Collection[str], count: int) -> tuple[tuple[str, ...], ...]:
    """``count`` groups of members, whose sizes differ by one at most; O(n log n).

    Parameters
    ----------
    listed : str
        Digest (hex) of the run's key list.
    members : collection of str
        Who takes part in the run's sums.
    """
    stem = f"folkmoot-secure-1 groups\0{listed}\0" + "\0".join(sorted(members))

    def place(site: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{stem}\0\0{site}".encode()).digest(), site

    order = sorted(members, key=place)
    return tuple(tuple(sorted(order[first::count])) for first in range(count))


def group_of(groups: Collection[Collection[str]], site: str) -> frozenset[str]:
    """The group that a site is in."""
    return next(frozenset(group) for group in groups if site in group)
