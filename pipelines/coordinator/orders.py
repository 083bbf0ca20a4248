"""Publish what the sites act upon together with the coordinator's signature for it."""

from __future__ import annotations

from folkmoot.exchange import ArtifactRef
from folkmoot.identity import public_text
from folkmoot.identity.orders import order, signature_key
from folkmoot.plan import RunContext
from folkmoot.wire import digest
from pipelines.coordinator.identity import coordinator_key

__all__ = ["publish"]


def publish(context: RunContext, key: str, data: bytes) -> ArtifactRef:
    """Publish an artefact after its signature, so that nobody finds the one without the other.

    Raises
    ------
    ProtocolError
        ``protocol.conflict`` where another artefact was published under ``key`` before.
    """
    signing = coordinator_key(context.workspace)
    own = context.roster.coordinator == public_text(signing)
    known = context.store.find(context.key(key))
    if own and (known is None or known == data):
        made = order(context.federation, context.run, key, digest(data), signing)
        context.store.put(context.key(signature_key(key)), made)
    return context.store.put(context.key(key), data)
