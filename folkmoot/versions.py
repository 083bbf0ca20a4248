"""Which versions of folkmoot work together: of one major version, at most one minor version apart.

So a federation is upgraded one party after another, in any order, while it trains.  What this asks of
a minor version stands in ``CONTRIBUTING.md``.
"""

from __future__ import annotations

import re

import folkmoot
from folkmoot.errors import ProtocolError

__all__ = ["apart", "demand", "together"]


def together(one: str, other: str) -> bool:
    """Whether two versions work together: ``0.1.4`` and ``0.2.0`` do, ``0.1`` and ``0.3`` do not."""
    first, second = _parts(one), _parts(other)
    if first is None or second is None:
        return one == other
    return first[0] == second[0] and abs(first[1] - second[1]) <= 1


def demand(theirs: str, what: str) -> None:
    """Refuse to work with a version that is too far from this one.

    Parameters
    ----------
    theirs : str
        The other side's version.
    what : str
        What runs it or was made by it, as a sentence's beginning: ``The coordinator runs``.

    Raises
    ------
    ProtocolError
        ``protocol.version``, naming both.
    """
    if not together(theirs, folkmoot.__version__):
        raise apart(theirs, what)


def apart(theirs: str, what: str) -> ProtocolError:
    """What :func:`demand` raises."""
    return ProtocolError(
        "protocol.version",
        f"{what} folkmoot {theirs[:40]}, this side runs {folkmoot.__version__}: versions work "
        "together when they are at most one minor version apart.",
        "Upgrade the older side, one minor version after another (docs/how-to/operate.md).",
    )


def _parts(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.|rc|a|b|$)", version)
    return None if found is None else (int(found[1]), int(found[2]))
