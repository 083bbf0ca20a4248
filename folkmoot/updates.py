"""What a site contributes, and the only ways it may change hands.

::

    LinearUpdate | TreeUpdate | Statistics      raw: never leaves the site
        │  site_tasks.privatise
    PrivatisedUpdate                            clipped and noised as the plan says
        │  site_tasks.release (seals, signs, writes down, publishes)
    ReleasedUpdate                              the only thing an aggregate accepts

With ``aggregation.protection: masks`` a release holds a :class:`MaskedUpdate`, and what an aggregate
accepts is the :class:`SummedUpdate` of all of them, which :func:`open_sum` makes.

The two later types cannot be built by their constructors: each needs the token of its own door,
which the module of that door alone imports (``tests/test_doors.py`` holds everybody to it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import PrivacyError, ProtocolError
from folkmoot.identity import Roster, verified
from folkmoot.secure.layout import Layout
from folkmoot.wire import Artefact, decode, digest

__all__ = [
    "LinearUpdate",
    "Masked",
    "MaskedUpdate",
    "Part",
    "PrivatisedUpdate",
    "ReleasedUpdate",
    "Statistics",
    "SummedUpdate",
    "TreeUpdate",
    "open_released",
    "open_sum",
]

Array = NDArray[Any]
PRIVATISED_DOOR = object()
MASKED_DOOR = object()
RELEASED_DOOR = object()


@dataclass(frozen=True)
class LinearUpdate:
    """A site's contribution to a linear round.

    Parameters
    ----------
    arrays : dict of str to ndarray of float64
        By strategy: ``delta`` (K, d + 1), the change of coefficients and intercept;
        ``gradient`` (K * (d + 1),) with ``hessian`` (K * (d + 1), K * (d + 1)) and ``loss`` ();
        ``control`` (K, d + 1) beside ``delta`` for SCAFFOLD.
    weight : float
        Training rows (or summed sample weights); 1 where weighting is uniform.
    """

    arrays: Mapping[str, Array]
    weight: float


@dataclass(frozen=True)
class TreeUpdate:
    """Trees that a site grew on top of the global booster.

    Parameters
    ----------
    trees : bytes
        JSON list of XGBoost trees (the model schema's ``trees``), without statistics of rows.
    weight : float
        Training rows; 1 where weighting is uniform.
    """

    trees: bytes
    weight: float

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The trees as one array of bytes."""
        return {"trees": np.frombuffer(self.trees, np.uint8)}


@dataclass(frozen=True)
class Statistics:
    """Sums and counts: scaling statistics, evaluation counts.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Sums over a site's rows (int64 or float64).
    weight : float
        Always 1: sums are added, not averaged.
    """

    arrays: Mapping[str, Array]
    weight: float = 1.0


@dataclass(frozen=True)
class Masked:
    """A part whose numbers are in the release's hidden vector; opens in a sum alone."""

    weight: float = 1.0

    @property
    def arrays(self) -> Mapping[str, Array]:
        """None of its own."""
        return {}


Part = LinearUpdate | TreeUpdate | Statistics | Masked
_KINDS: dict[str, type] = {
    "linear": LinearUpdate,
    "trees": TreeUpdate,
    "statistics": Statistics,
    "masked": Masked,
}
#: All arrays of a release whose numbers are hidden: masked, or encrypted (``folkmoot.secure.ckks``).
HIDDEN = ({"masked"}, {"masked", "narrow"}, {"cipher", "ends"})


class PrivatisedUpdate:
    """Parts after ``privatise``, with the events they cost; built by ``site_tasks.privatise`` alone."""

    def __init__(
        self, door: object, parts: Mapping[str, Part], events: Mapping[str, Mapping[str, Any]]
    ) -> None:
        if door is not PRIVATISED_DOOR:
            raise _order("A PrivatisedUpdate comes from privatise alone.")
        self.parts = dict(parts)
        #: Per part, the privacy event as JSON values (``folkmoot.privacy.events``).
        self.events = {name: dict(event) for name, event in events.items()}


class MaskedUpdate:
    """A privatised update under masks or encryption; built by ``site_tasks.secure`` alone.

    Parameters
    ----------
    update : PrivatisedUpdate
        What was masked; its names and events stay, its numbers do not.
    hidden : dict of str to ndarray
        All its numbers: ``masked``, a vector of a ring, or ``cipher`` and ``ends``.
    """

    def __init__(self, door: object, update: PrivatisedUpdate, hidden: Mapping[str, Array]) -> None:
        if door is not MASKED_DOOR or not isinstance(update, PrivatisedUpdate):
            raise _order("A MaskedUpdate is made of a PrivatisedUpdate by the site's masks alone.")
        self.parts: dict[str, Part] = {name: Masked() for name in update.parts}
        self.events = update.events
        self.hidden = dict(hidden)


class ReleasedUpdate:
    """A signed update as published; built by ``site_tasks.release`` or :func:`open_released` alone."""

    def __init__(
        self, door: object, meta: Mapping[str, Any], parts: Mapping[str, Part], digest: str
    ) -> None:
        if door is not RELEASED_DOOR:
            raise _order("A ReleasedUpdate comes from the site's release door alone.")
        self.meta = dict(meta)
        self.parts = dict(parts)
        self.digest = digest
        #: The arrays of a release whose numbers are hidden, else none.
        self.hidden: Mapping[str, Array] = {}

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites whose contributions are in it: its own, or those of a sum."""
        return (self.site,)

    @property
    def site(self) -> str:
        """Name of the site that signed it."""
        return str(self.meta["site"])

    @property
    def receipt(self) -> dict[str, Any]:
        """What was released and what it cost (``folkmoot.privacy.release``)."""
        return dict(self.meta["receipt"])


class SummedUpdate(ReleasedUpdate):
    """The opened sum of masked updates: means and sums over its sites; by :func:`open_sum` alone."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The contributors, sorted."""
        return tuple(self.meta["sites"])


def to_artefact(meta: Mapping[str, Any], update: PrivatisedUpdate | MaskedUpdate) -> Artefact:
    """Artefact of a privatised or masked update; used by ``site_tasks.seal``."""
    if not isinstance(update, PrivatisedUpdate | MaskedUpdate):
        raise _order("Only a PrivatisedUpdate can be sealed.")
    kinds = {kind: name for name, kind in _KINDS.items()}
    parts = {n: {"kind": kinds[type(p)], "weight": p.weight} for n, p in update.parts.items()}
    arrays = {f"{n}.{a}": v for n, p in update.parts.items() for a, v in p.arrays.items()}
    if isinstance(update, MaskedUpdate):
        arrays |= update.hidden
    return Artefact("update", {**meta, "parts": parts}, arrays)


def open_released(data: bytes, roster: Roster, expect: Mapping[str, Any]) -> ReleasedUpdate:
    """Open bytes from the exchange store: signature, format and binding are checked; O(bytes).

    Parameters
    ----------
    data : bytes
        A signed artefact.
    roster : Roster
        Public keys of the federation.
    expect : dict
        Values that the header must bind: ``federation``, ``run``, ``round``, ``site``, ``step``.

    Returns
    -------
    ReleasedUpdate

    Raises
    ------
    ProtocolError
        For anything that does not fit; arrays with NaN or infinity are refused.
    """
    site = str(expect["site"])
    what = f"the {expect.get('step', 'update')} artefact of site {site}"
    artefact = decode(verified(data, roster.key(site), what=what), kind="update")
    for key, value in expect.items():
        if artefact.meta.get(key) != value:
            raise ProtocolError(
                "protocol.mismatch",
                f"{what} is signed for another {key} than expected.",
                "Treat it as replayed; run the site's step again.",
                site=site,
            )
    try:
        entries, receipt = artefact.meta["parts"], artefact.meta["receipt"]
        parts = {str(n): _part(str(n), e, artefact) for n, e in entries.items()}
        if not isinstance(receipt, dict):
            raise TypeError
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ProtocolError(
            "protocol.format",
            f"{what} is not a well-formed update.",
            "Check that the site runs the same version of folkmoot.",
            site=site,
        ) from None
    released = ReleasedUpdate(RELEASED_DOOR, artefact.meta, parts, digest(data))
    if set(artefact.arrays) in HIDDEN:
        released.hidden = artefact.arrays
    return released


def open_sum(
    updates: Sequence[ReleasedUpdate], layout: Layout, total: Mapping[str, Array]
) -> SummedUpdate:
    """The sum of masked updates, once their masks were taken off ``total``; O(numbers).

    Parameters
    ----------
    updates : sequence of ReleasedUpdate
        The contributors' masked updates, sorted by site.
    layout : Layout
        Of their vectors.
    total : dict of str to ndarray
        The unmasked sum of their vectors (``Layout.zeros`` has their names).

    Returns
    -------
    SummedUpdate
        In place of the single updates: averaged arrays as weighted means, others as sums, the
        weight as the sum of weights.

    Raises
    ------
    PrivacyError
        ``privacy.order`` for anything that did not come through a site's release door.
    """
    if not updates or any(not u.hidden or len(u.sites) != 1 for u in updates):
        raise _order("A sum is opened of masked releases alone.")
    found, weights = layout.decode(dict(total))
    parts: dict[str, Part] = {}
    for name, kind in layout.kinds.items():
        linear = kind == "linear"
        parts[name] = (
            LinearUpdate(found[name], weights[name]) if linear else Statistics(found[name])
        )
    meta = {"site": "*", "sites": [u.site for u in updates], "step": updates[0].meta["step"]}
    return SummedUpdate(RELEASED_DOOR, meta, parts, "")


def _part(name: str, entry: Mapping[str, Any], artefact: Artefact) -> Part:
    prefix = name + "."
    arrays = {k.removeprefix(prefix): v for k, v in artefact.arrays.items() if k.startswith(prefix)}
    if any(a.dtype.kind == "f" and not np.isfinite(a).all() for a in arrays.values()):
        raise ValueError
    weight = float(entry["weight"])
    if not (np.isfinite(weight) and weight > 0):
        raise ValueError
    if entry["kind"] == "trees":
        return TreeUpdate(arrays["trees"].tobytes(), weight)
    if entry["kind"] == "linear":
        return LinearUpdate(arrays, weight)
    if entry["kind"] == "statistics":
        return Statistics(arrays, weight)
    if entry["kind"] == "masked" and not arrays and set(artefact.arrays) in HIDDEN:
        return Masked(weight)
    raise ValueError


def _order(message: str) -> PrivacyError:
    return PrivacyError("privacy.order", message, "Call privatise, then release, in this order.")
