"""A site acts upon what its coordinator signed: the run that was opened, and each global model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from folkmoot.errors import ProtocolError
from folkmoot.identity.orders import check_order, signature_key
from folkmoot.plan import keys
from folkmoot.wire import digest

if TYPE_CHECKING:
    from folkmoot.plan import RunContext

__all__ = ["check_run", "read"]


def check_run(context: RunContext) -> None:
    """Refuse a run whose params, contract and roster the coordinator did not sign; once per process.

    Raises
    ------
    ProtocolError
        ``protocol.signature``.
    """
    if context.roster.coordinator is not None:
        read(context, keys.RUN)


def read(context: RunContext, key: str) -> bytes:
    """An artefact of the coordinator's, where its signature holds; O(bytes).

    Rosters without a coordinator (a site that never accepted one with it) have nothing to check by:
    ``site_tasks.membership`` refuses them where the site knows better.

    Raises
    ------
    ProtocolError
        ``protocol.signature``, or ``protocol.missing``.
    """
    data = context.store.get(context.key(key))
    own = context.roster.coordinator
    if own is None:
        return data
    found = digest(data)
    name = ("order", context.run, key)
    if context.cache.get(name) == found:
        return data
    signed = context.store.find(context.key(signature_key(key)))
    try:
        check_order(signed, context.federation, context.run, key, found, own)
    except ProtocolError:
        context.cache.pop(name, None)
        raise
    context.cache[name] = found
    return data
