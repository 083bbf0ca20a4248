"""The coordinator's steps between the sites' of a secure sum: it passes on what they must agree on.

``keys_of`` and ``deal`` in the set-up, ``survivors`` between upload and answer.  What is wrong is
left out here so that a round can go on; that nothing was smuggled in is checked by the sites.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from folkmoot.errors import FolkmootError, ProtocolError, RoundError, SecureError
from folkmoot.exchange import ArtifactRef
from folkmoot.plan import RunContext, Step, keys
from folkmoot.secure import lists, setup
from folkmoot.secure.encrypted import open_offer
from folkmoot.secure.run import groups_in, index_of, session_of, set_up_of, stage_of
from folkmoot.secure.session import Dealt
from folkmoot.secure.unmask import open_list, survivor_list
from pipelines.coordinator import lock
from pipelines.coordinator.aggregate.secure_sum import encrypted_total, uploads
from pipelines.coordinator.collect import Collected

__all__ = ["deal", "keys_of", "left_out", "survivors"]

T = TypeVar("T")


def keys_of(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Publish the list of key messages: who is in, and the digest of each."""
    lock.touch(context.workspace, context.federation)
    session = session_of(context)

    def check(site: str, data: bytes) -> bytes:
        setup.open_keys(data, session, site, context.roster)
        return data

    found = _gather(step, context, "keys", check)
    listed = lists.key_list(session, found)
    return [context.store.put(context.key(keys.SECURE_KEYS), listed)]


def deal(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Pass every site the boxes that were sealed for it; publish who is a member of the sums."""
    lock.touch(context.workspace, context.federation)
    session = session_of(context)
    listed = context.store.get(context.key(keys.SECURE_KEYS))
    graph = lists.neighbours(session, listed)
    if session.encrypted:
        return _members(step, context, listed)

    def check(site: str, data: bytes) -> tuple[bytes, Dealt]:
        return data, setup.open_shares(data, session, site, listed, graph, context.roster)

    found = _gather(step, context, "shares", check)
    members, inboxes = setup.deal(session, listed, graph, found)
    for site, inbox in inboxes.items():
        context.store.put(context.key(keys.secure("inbox", site)), inbox)
    return [context.store.put(context.key(keys.SECURE_MEMBERS), members)]


def _total(context: RunContext, collected: Collected, statements: dict[str, bytes]) -> bytes:
    """The encrypted sum; what cannot be added is left out of it, and of ``statements``."""
    while True:
        updates = [update for update in collected.updates if update.site in statements]
        try:
            return encrypted_total(context, updates)
        except SecureError as error:
            if error.site not in statements or len(updates) <= collected.required:
                raise
            del statements[error.site]
            set_up_of(context).graph.check(statements)


def _members(step: Step, context: RunContext, listed: bytes) -> list[ArtifactRef]:
    """Who takes part in encrypted sums; their key pair lies in the first member's message."""
    session, required = session_of(context), context.params.federation.required

    def check(site: str, data: bytes) -> bytes:
        open_offer(data, session, site, listed, required, context.roster)
        return data

    found = _gather(step, context, "shares", check)
    lists.neighbours(session, listed).check(found)
    members = lists.member_list(session, listed, found)
    for site in found:  # the key pair that all use, signed by who made it
        context.store.put(context.key(keys.secure("inbox", site)), found[min(found)])
    return [context.store.put(context.key(keys.SECURE_MEMBERS), members)]


def survivors(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Publish the statements of all sites whose contribution to a sum is there and in order.

    Raises
    ------
    SecureError
        ``secure.threshold`` where they could not open the sum; ``round.quorum``.
    """
    lock.touch(context.workspace, context.federation)
    own = set_up_of(context)
    collected, statements = uploads(step, context)
    if (groups := groups_in(step, context)) is not None:
        least = context.params.aggregation.defence.group_minimum
        for group in groups:  # too few for a sum of their own: they sit the round out
            here = statements.keys() & set(group)
            if len(here) < least:
                statements = {s: v for s, v in statements.items() if s not in here}
    own.graph.check(statements)
    if session_of(context).encrypted:
        own_total = keys.total(stage_of(step))
        context.store.put(context.key(own_total), _total(context, collected, statements))
    binding = session_of(context).binding(index_of(step, context))
    listed = survivor_list(binding, statements)
    return [context.store.put(context.key(keys.survivors(stage_of(step))), listed)]


def _gather(
    step: Step, context: RunContext, what: str, check: Callable[[str, bytes], T]
) -> dict[str, T]:
    found: dict[str, T] = {}
    faults: list[FolkmootError] = []
    sites = sorted(before.rsplit("/", 1)[1] for before in step.after)
    for site in sites:
        data = context.store.find(context.key(keys.secure(what, site)))
        if data is None:
            continue
        try:
            found[site] = check(site, data)
        except (ProtocolError, SecureError) as error:
            faults.append(error)
    required = len(sites) if step.quorum is None else step.quorum
    if len(found) < required:
        if faults:
            raise faults[0]
        raise RoundError(
            "round.quorum",
            f"{step.name}: {len(found)} of {len(sites)} sites sent their {what}, {required} are "
            f"required; missing: {', '.join(sorted(set(sites) - found.keys()))}.",
            "See each missing site's task for its error, then run again: finished steps are kept.",
        )
    return found


def left_out(step: Step, context: RunContext) -> dict[str, str] | None:
    """Sites that one of these steps goes on without; None for any other step.

    Hosts that plan every task ahead skip theirs.
    """
    session = session_of(context)
    if step.body == "coordinator.keys":
        listed = context.store.get(context.key(keys.SECURE_KEYS))
        present = set(lists.open_list(listed, session))
    elif step.body == "coordinator.deal":
        present = set(set_up_of(context).members)
    elif step.body == "coordinator.survivors":
        binding = session.binding(index_of(step, context))
        data = context.store.get(context.key(keys.survivors(stage_of(step))))
        present = set(open_list(data, binding))
    else:
        return None
    return {s: "protocol.missing" for s in context.params.federation.members if s not in present}
