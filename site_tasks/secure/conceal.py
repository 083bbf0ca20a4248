"""Masks or encryption on what a site releases: the one place where a :class:`MaskedUpdate` is made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from folkmoot.exchange import ArtifactRef
from folkmoot.identity import verify
from folkmoot.plan import RunContext, Step, keys
from folkmoot.secure.groups import group_of
from folkmoot.secure.layout import Layout
from folkmoot.secure.masks import add_masks, own_masks
from folkmoot.secure.run import (
    groups_in,
    index_of,
    limits_of,
    session_of,
    set_up_of,
    stage_of,
    units_of,
)
from folkmoot.secure.unmask import View, statement
from folkmoot.updates import MASKED_DOOR, LinearUpdate, MaskedUpdate, PrivatisedUpdate
from folkmoot.wire import canonical_json, decode, digest
from site_tasks.secure.encrypted import encrypt
from site_tasks.secure.memory import memory, state_of

if TYPE_CHECKING:
    from site_tasks.home import SiteHome

__all__ = ["conceal", "publish_statement"]


def conceal(
    step: Step,
    context: RunContext,
    home: SiteHome,
    update: PrivatisedUpdate,
    identity: str,
    inputs: Sequence[str],
) -> tuple[MaskedUpdate, dict[str, Any]]:
    """Put a privatised update on the grid, and under masks or encryption; O(peers · numbers).

    Parameters
    ----------
    identity : str
        The release's: the sum's masks hide this release and no other, ever.
    inputs : sequence of str
        Digests of what it is computed from; the first that of the incoming model, if any.

    Returns
    -------
    MaskedUpdate, dict
        What leaves, and its layout and view for the header.

    Raises
    ------
    SecureError
        ``secure.range`` for numbers that are not finite or beyond their limit.
    SecureError
        ``secure.again`` where the site contributed something else to this sum.
    SecureError
        ``secure.key`` or ``secure.share`` where the set-up does not hold.
    """
    index, session = index_of(step, context), session_of(context)
    binding = session.binding(index)
    state = state_of(context, home)
    linear = {n: isinstance(part, LinearUpdate) for n, part in update.parts.items()}
    layout = Layout.of(
        {n: ("linear" if linear[n] else "statistics", p.arrays) for n, p in update.parts.items()},
        limits_of(context),
        # Votes about levels are counts, and there is no space of features before they are settled.
        None if stage_of(step) == "agree" else units_of(context),
    )
    vector = layout.encode(
        {name: part.arrays for name, part in update.parts.items()},
        {name: part.weight for name, part in update.parts.items() if linear[name]},
        # Public, and the same on every host: rounding protects nothing.
        hashlib.sha256(canonical_json(["rounding", binding.to_dict(), home.name])).digest(),
        outside="clip",
    )
    state.claim(index, binding, identity)
    if session.encrypted:
        made = encrypt(context, home, binding, vector["masked"])
        hidden: dict[str, NDArray[Any]] = {"cipher": made.data, "ends": made.ends}
    else:
        known = memory(context, home)
        groups = groups_in(step, context)
        near = known.peers if groups is None else group_of(groups, home.name)
        peers = {o: public[index] for o, public in known.peers.items() if o in near}
        own = known.keys.masks[index], known.keys.seeds[index]
        add_masks(vector, *own_masks(binding, home.name, *own, peers))
        hidden = vector
    view = View(
        plan=session.plan,
        members=digest(set_up_of(context).members_list),
        layout=layout.digest(),
        model=inputs[0] if step.inputs else "",
        answered=state.answered(index),
    )
    meta = {"secure": {"layout": layout.to_dict(), "view": view.to_dict()}}
    return MaskedUpdate(MASKED_DOOR, update, hidden), meta


def publish_statement(
    step: Step,
    context: RunContext,
    home: SiteHome,
    data: bytes,
    upload: str,
    seen: Mapping[str, Any] | None,
) -> ArtifactRef:
    """Sign and publish what was uploaded; the same statement at every retry.

    Parameters
    ----------
    data : bytes
        The release, of digest ``upload``.
    seen : mapping or None
        Its header's ``secure``, where it is at hand.
    """
    index, session = index_of(step, context), session_of(context)

    def make() -> bytes:
        known = seen
        if known is None:
            body = verify(data, home.key().public_key(), what="A stored release")
            known = decode(body, kind="update").meta["secure"]
        values = known["view"]
        place, listed = values["answered"]
        view = View(**{**values, "answered": (place, listed)})
        return statement(session.binding(index), home.name, upload, view, home.key())

    made = state_of(context, home).once(f"statement-{index:04d}", make, durable=False)
    return context.store.put(context.key(keys.statement(stage_of(step), home.name)), made)
