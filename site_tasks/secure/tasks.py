"""Bodies of a site's tasks: announce keys, deal shares, contribute statistics, answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from folkmoot.errors import SecureError
from folkmoot.exchange import ArtifactRef
from folkmoot.plan import RunContext, Step, keys
from folkmoot.privacy.events import EXACT
from folkmoot.secure import lists, setup
from folkmoot.secure.groups import group_of
from folkmoot.secure.run import groups_in, index_of, session_of, set_up_of, stage_of
from folkmoot.secure.session import WORDS, Keys
from folkmoot.secure.unmask import answer, check_survivors
from folkmoot.updates import Part, Statistics
from folkmoot.wire import Artefact, canonical_json, decode, digest, encode
from site_tasks import orders, permissions
from site_tasks.histogram_content import asked_of
from site_tasks.home import SiteHome
from site_tasks.prepared import load_prepared
from site_tasks.secure import encrypted
from site_tasks.secure.memory import announced_by, memory, new_state, own_keys, state_of

__all__ = ["announce", "share", "statistics", "unmask"]


def announce(step: Step, context: RunContext) -> list[ArtifactRef]:
    """First task of the set-up: new keys for every sum of the run, signed."""
    home = SiteHome.find(step.place, context.workspace)
    permissions.check(context, home)
    session = session_of(context)
    drawn = Keys.draw(session.keyed)
    message = setup.key_message(session, home.name, drawn, home.key())
    new_state(context, home, message).once("keys", drawn.to_bytes)
    return [context.store.put(context.key(step.outputs[0]), message)]


def share(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Second task: shares of all secrets for the neighbours, sealed; dealt to one list of keys.

    Raises
    ------
    SecureError
        ``secure.key`` for a list with a key message that is swapped, stale or not a member's.
    SecureError
        ``secure.contributors`` for a list of fewer sites than this site sums with;
        ``secure.again`` for a second list.
    """
    home = SiteHome.find(step.place, context.workspace)
    permissions.check(context, home)
    session, state = session_of(context), state_of(context, home)
    listed = context.store.get(context.key(keys.SECURE_KEYS))
    sites = lists.open_list(listed, session)
    own = context.store.get(context.key(keys.secure("keys", home.name)))
    if sites.get(home.name) != digest(own) or not sites.keys() <= {
        *context.params.federation.members
    }:
        raise SecureError(
            "secure.key",
            f"The key list has another key of site {home.name}, or names a site that is no member.",
            "Find out who made it; no share was dealt.",
            site=home.name,
        )
    least = permissions.fewest_contributors(context, home)
    if len(sites) < least:
        raise SecureError(
            "secure.contributors",
            f"Only {len(sites)} sites announced keys; site {home.name} sums with at least {least}.",
            "Wait for more sites, or ask the site's steward to lower minimum_contributors.",
            site=home.name,
        )
    graph = lists.neighbours(session, listed)

    def make() -> bytes:
        announced = {n: announced_by(context, listed, n) for n in graph.of(home.name)}
        message, words = setup.share_message(
            session, home.name, own_keys(state), listed, announced, home.key()
        )
        return words.tobytes() + message

    if state.once("list", lambda: listed) != listed:
        raise SecureError(
            "secure.again",
            f"Site {home.name} was sent a second key list for the same keys.",
            "Find out who made it; shares were dealt to the first alone.",
            site=home.name,
        )
    if session.encrypted:
        made = encrypted.offer(context, home, listed)
    else:
        made = state.once("shares", make)[4 * WORDS * len(session.sums) :]
    return [context.store.put(context.key(step.outputs[0]), made)]


def statistics(step: Step, context: RunContext) -> list[ArtifactRef]:
    """Summed statistics of prepared rows, under masks."""
    from site_tasks.prepare import schema_meta
    from site_tasks.release import release

    home = SiteHome.find(step.place, context.workspace)
    prepared = load_prepared(context, home)

    def make() -> Mapping[str, Part]:
        data = (prepared.folder / "statistics.bin").read_bytes()
        return {"statistics": Statistics(decode(data, kind="statistics").arrays)}

    return [
        release(
            step,
            context,
            home,
            key=step.outputs[0],
            inputs=[prepared.fingerprint, prepared.digest],
            make=make,
            fingerprint=prepared.fingerprint,
            meta=schema_meta(context),
        )
    ]


def unmask(step: Step, context: RunContext) -> list[ArtifactRef]:
    """The site's one answer to a sum's list of survivors, after all its checks.

    Raises
    ------
    SecureError
        ``secure.survivors``, with what is wrong about the list.
    SecureError
        ``secure.contributors`` or ``secure.again``.
    SecureError
        ``secure.threshold``.
    """
    home = SiteHome.find(step.place, context.workspace)
    permissions.check(context, home)
    index, session = index_of(step, context), session_of(context)
    binding, state, own = session.binding(index), state_of(context, home), set_up_of(context)
    listed = context.store.get(context.key(keys.survivors(stage_of(step))))
    mine = state.find(f"statement-{index:04d}")
    if mine is None:
        raise SecureError(
            "secure.survivors",
            f"Site {home.name} is asked to open a sum that it did not contribute to.",
            "Sites that miss the upload have no part in the round.",
            site=home.name,
        )
    least = permissions.fewest_contributors(context, home)
    groups = groups_in(step, context)
    survivors = check_survivors(
        listed,
        binding,
        home.name,
        mine,
        members=own.members,
        graph=own.graph,
        roster=context.roster,
        minimum=least,
        groups=groups,
    )

    def check() -> None:
        if context.params.privacy.mechanism in EXACT:
            mine = survivors if groups is None else group_of(groups, home.name) & {*survivors}
            state.compare(_content(step, context, home), mine, least)

    def make() -> bytes:
        if session.encrypted:
            return encrypted.answer(step, context, home, binding, listed, survivors)
        return answer(
            binding,
            index,
            home.name,
            listed,
            survivors,
            members=own.members,
            graph=own.graph,
            held=memory(context, home).held,
            signing=home.key(),
        )

    made = state.answer(
        index,
        binding,
        listed,
        make,
        check,
    )
    return [context.store.put(context.key(step.outputs[0]), made)]


def _content(step: Step, context: RunContext, home: SiteHome) -> str:
    """What this site's contribution depends on, but for the run: its rows, the model's numbers."""
    if stage_of(step) == "agree":
        from site_tasks.agree import content

        return content(context, home)
    if context.params.statistics.active:
        from site_tasks.measure.sums import content as asked

        return asked(step, context, home)
    prepared = load_prepared(context, home)
    model = ""
    if len(step.inputs) > 1:  # a model, beside the list of survivors
        found = decode(orders.read(context, step.inputs[0]), kind="model")
        model = digest(encode(Artefact("model", asked_of(found.meta), found.arrays)))
    settings = context.params.model.chosen.stated(exclude={"rounds", "early_stopping"})
    values = [session_of(context).sums[index_of(step, context)][1], prepared.digest]
    values += [prepared.fingerprint, model, context.params.privacy.mechanism]
    return hashlib.sha256(canonical_json([*values, settings])).hexdigest()
