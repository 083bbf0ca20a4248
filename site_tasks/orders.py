"""A site acts upon what its coordinator signed: the run, the agreed schema, and each global model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from folkmoot.errors import ProtocolError
from folkmoot.identity.orders import check_order, signature_key
from folkmoot.plan import keys
from folkmoot.wire import digest

if TYPE_CHECKING:
    from folkmoot.plan import RunContext

__all__ = ["check_run", "check_schema", "read", "take_for_given"]


def check_run(context: RunContext) -> None:
    """Refuse a run whose params, contract and roster the coordinator did not sign; once per process.

    Raises
    ------
    ProtocolError
        ``protocol.signature``.
    """
    if context.roster.coordinator is not None and _name(context, keys.RUN) not in context.cache:
        read(context, keys.RUN)


def check_schema(context: RunContext) -> None:
    """Refuse levels of generalisation that the coordinator did not sign; once per process.

    Raises
    ------
    ProtocolError
        ``protocol.signature``.
    """
    settings = context.params.anonymisation
    if settings.recoding != "agreed" or settings.settled is None:
        return
    if _name(context, keys.SCHEMA) in context.cache:
        return
    signed = json.loads(read(context, keys.SCHEMA))
    if signed["levels"] != settings.settled:  # what was read before the signature was looked at
        context.cache.pop(_name(context, keys.SCHEMA), None)
        raise ProtocolError(
            "protocol.signature",
            f"{keys.SCHEMA} of run {context.run} changed while it was read.",
            "Find out who published it; the site did nothing with it.",
        )


def take_for_given(context: RunContext) -> None:
    """Check no order for the run's settings: they are of this checkout, not of the exchange store.

    `dvc repro` trains with the params that lie beside it and opens the run when it is over; its
    models are signed and checked as everywhere.
    """
    context.cache[_name(context, keys.RUN)] = "of this checkout"


def read(context: RunContext, key: str) -> bytes:
    """An artefact of the coordinator's, as :func:`signed` gives it."""
    return signed(context, key)[0]


def signed(context: RunContext, key: str) -> tuple[bytes, str]:
    """An artefact of the coordinator's, where its signature holds, and its digest; O(bytes).

    Rosters without a coordinator (a site that never accepted one with it) have nothing to check by:
    ``site_tasks.membership`` refuses them where the site knows better.

    Raises
    ------
    ProtocolError
        ``protocol.signature``, or ``protocol.missing``.
    """
    data = context.store.get(context.key(key))
    name = _name(context, key)
    last: tuple[object, bytes, str] | None = context.cache.get("last order")
    if last is not None and last[0] == name and last[1] == data:
        return last[1], last[2]  # several sites of one process read the same model
    found = digest(data)
    own = context.roster.coordinator
    if own is not None and context.cache.get(name) != found:
        order = context.store.find(context.key(signature_key(key)))
        try:
            check_order(order, context.federation, context.run, key, found, own)
        except ProtocolError:
            context.cache.pop(name, None)
            raise
        context.cache[name] = found
    context.cache["last order"] = (name, data, found)
    return data, found


def _name(context: RunContext, key: str) -> tuple[str, str, str]:
    return ("order", context.run, key)
