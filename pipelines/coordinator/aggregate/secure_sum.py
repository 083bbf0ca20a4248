"""Open the secure sum of a stage: one summed update in place of the sites' single ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from folkmoot.errors import FolkmootError, ProtocolError, SecureError
from folkmoot.plan import RunContext, Step, keys
from folkmoot.secure import recover, setup
from folkmoot.secure.ckks import MOST_BYTES, Cipher, Packing
from folkmoot.secure.encrypted import added, agreed_sum, open_offer
from folkmoot.secure.layout import Layout, Ring
from folkmoot.secure.masks import Binding
from folkmoot.secure.run import groups_in, index_of, session_of, set_up_of, stage_of
from folkmoot.secure.session import Announced, Dealt
from folkmoot.secure.together import Sealed, open_sealed, open_together
from folkmoot.secure.unmask import open_list, open_statement
from folkmoot.updates import ReleasedUpdate, open_sum
from folkmoot.wire import digest
from pipelines.coordinator.collect import Collected, collect
from pipelines.coordinator.fits import check_masked, check_sum

__all__ = ["encrypted_total", "gather", "uploads"]


@dataclass(frozen=True)
class _Task:
    """Which of a stage's tasks is summed, and where its uploads lie."""

    name: str
    key: Callable[[str], str]


def gather(step: Step, context: RunContext) -> Collected:
    """The contributors' masked updates and the sum of all of them, opened; O(sites · numbers).

    Raises
    ------
    SecureError
        ``secure.threshold`` where too few sites answered: nothing of the stage is revealed.
    SecureError
        ``secure.share`` where shares are false and too few true ones are left.
    """
    own, index, stage = set_up_of(context), index_of(step, context), stage_of(step)
    session = session_of(context)
    binding = session.binding(index)
    collected, _ = uploads(step, context)
    listed = context.store.get(context.key(keys.survivors(stage)))
    statements = open_list(listed, binding)
    updates = [update for update in collected.updates if update.site in statements]
    for update in updates:
        upload, _ = open_statement(statements[update.site], binding, update.site, context.roster)
        if upload != update.digest:
            raise _changed(update.site)
    if len(updates) != len(statements):
        raise _changed(min(statements.keys() - {update.site for update in updates}))
    missing = dict(collected.missing)
    missing |= {u.site: "protocol.missing" for u in collected.updates if u.site not in statements}
    layout = Layout.from_dict(updates[0].meta["secure"]["layout"])
    sealed = _answers(context, stage, binding, listed, statements)
    which, threshold = digest(listed), own.graph.threshold
    report: dict[str, Any] = {
        "protection": context.params.aggregation.protection,
        "threshold": threshold,
        "error_bounds": layout.error_bounds(len(updates)),
    }
    if session.encrypted:
        contents = open_together(sealed, binding, which, own.graph)
        _enough(sealed, contents, threshold)
        whole, odd = agreed_sum(contents, layout.size, threshold)
        total: Ring = {"masked": whole}
        report["silent"] = sorted(statements.keys() - contents.keys())
        report["contradicting"] = odd
        report["ciphertext_bytes"] = max(int(u.hidden["cipher"].size) for u in updates)
    else:
        answers = recover.open_answers(sealed, binding, which, frozenset(statements), own.graph)
        _enough(sealed, answers, threshold)
        report["silent"] = sorted(statements.keys() - answers.keys())
        announced, dealt = _set_up(context)

        def opened(members: frozenset[str]) -> Ring:
            """Exact sum of the members' contributions."""
            part = layout.zeros()
            for update in updates:
                for name, vector in part.items() if update.site in members else ():
                    np.add(vector, update.hidden[name], out=vector)
            add, subtract = recover.leftover_masks(
                binding,
                index,
                sorted(members & statements.keys()),
                answers,
                members=members,
                graph=own.graph,
                announced=announced,
                dealt=dealt,
            )
            recover.unmask(part, add, subtract, threads=len(os.sched_getaffinity(0)))
            return part

        if (groups := groups_in(step, context)) is not None:
            return _grouped(
                Collected(updates, missing, collected.required, None, report),
                {
                    f"group-{i:03d}": opened(frozenset(group))
                    for i, group in enumerate(groups, 1)
                    if statements.keys() & set(group)
                },
                {f"group-{i:03d}": group for i, group in enumerate(groups, 1)},
                layout,
                context,
            )
        total = opened(own.members)
    summed = open_sum(updates, layout, total)
    check_sum(summed, context)
    return Collected(updates, missing, collected.required, summed, report)


def _grouped(
    collected: Collected,
    totals: Mapping[str, Ring],
    groups: Mapping[str, tuple[str, ...]],
    layout: Layout,
    context: RunContext,
) -> Collected:
    """Sums of groups, each under the name of its group, and the sum of all."""
    sums: list[ReleasedUpdate] = []
    for name, total in totals.items():
        here = [update for update in collected.updates if update.site in groups[name]]
        found = open_sum(here, layout, total)
        found.meta["site"] = name
        check_sum(found, context)
        sums.append(found)
    whole = layout.zeros()
    for total in totals.values():
        for name, vector in whole.items():
            np.add(vector, total[name], out=vector)
    report = {**collected.report, "groups": {name: list(own) for name, own in groups.items()}}
    summed = open_sum(collected.updates, layout, whole)
    return replace(collected, summed=summed, groups=sums, report=report)


def uploads(step: Step, context: RunContext) -> tuple[Collected, dict[str, bytes]]:
    """Uploads that are in order, with their statements; sites that differ from the rest left out."""
    task, stage = _task(step, context), stage_of(step)
    own, session = set_up_of(context), session_of(context)
    binding = session.binding(index_of(step, context))
    statements: dict[str, bytes] = {}
    seen: dict[str, str] = {}

    def check(update: ReleasedUpdate, context: RunContext) -> None:
        site = update.site
        data = context.store.find(context.key(keys.statement(stage, site)))
        check_masked(update, context)
        if data is None or site not in own.members:
            raise _unfit(site, "is not a member of the run's sums, or made no statement")
        upload, view = open_statement(data, binding, site, context.roster)
        layout = Layout.from_dict(update.meta["secure"]["layout"])
        if upload != update.digest or view.to_dict() != update.meta["secure"]["view"]:
            raise _unfit(site, "made a statement about another upload")
        if (view.plan, view.layout) != (session.plan, layout.digest()):
            raise _unfit(site, "has another plan or layout than it states")
        if not _fits(update, layout, context):
            raise _unfit(site, "sent a vector of another length or type than its layout has")
        statements[site] = data
        seen[site] = view.layout

    names = [f"{stage}/{task.name}/{site}" for site in context.params.federation.members]
    wanted = replace(step, after=tuple(names), quorum=context.params.federation.required)
    collected = collect(wanted, context, task.name, task.key, check)
    # All vectors of a sum are laid out alike: the most common way counts, by name where tied.
    layouts = sorted(seen.values())
    common = max(layouts, key=lambda one: (layouts.count(one), one)) if layouts else ""
    odd = {site for site, layout in seen.items() if layout != common}
    if odd:
        rest = [update for update in collected.updates if update.site not in odd]
        if len(rest) < collected.required:
            raise _unfit(min(odd), "lays its vector out in another way than the other sites")
        missing = {**collected.missing, **dict.fromkeys(sorted(odd), "protocol.mismatch")}
        collected = replace(collected, updates=rest, missing=missing)
    return collected, {site: data for site, data in statements.items() if site not in odd}


def encrypted_total(context: RunContext, updates: Sequence[ReleasedUpdate]) -> bytes:
    """The sum of encrypted contributions, which the sites will decrypt; O(sites · numbers).

    Raises
    ------
    SecureError
        ``secure.range``, naming the site whose contribution cannot be added.
    """
    own, session = set_up_of(context), session_of(context)
    maker, members = min(own.members), len(context.params.federation.members)
    data = context.store.get(context.key(keys.secure("shares", maker)))
    required = context.params.federation.required
    offer = open_offer(data, session, maker, own.listed, required, context.roster)
    if offer is None:
        raise _unfit(maker, "is the first member, and made no key pair")
    ciphers = {u.site: Cipher(u.hidden["cipher"], u.hidden["ends"]) for u in updates}
    size = Layout.from_dict(updates[0].meta["secure"]["layout"]).size
    return added(offer.public, maker, ciphers, size, members)


def _fits(update: ReleasedUpdate, layout: Layout, context: RunContext) -> bool:
    """Whether what hides a site's numbers has the length and type of its layout."""
    if context.params.aggregation.protection == "ckks":
        cipher, ends = update.hidden.get("cipher"), update.hidden.get("ends")
        count = Packing.of(len(context.params.federation.members)).ciphertexts(layout.size + 1)
        fit = cipher is not None and cipher.dtype == np.uint8 and cipher.size <= count * MOST_BYTES
        return fit and ends is not None and ends.dtype == np.int64 and ends.shape == (count,)
    wanted, found = layout.vectors(), update.hidden
    return wanted.keys() == found.keys() and all(
        found[n].dtype == dtype and found[n].shape == (size,) for n, (dtype, size) in wanted.items()
    )


def _task(step: Step, context: RunContext) -> _Task:
    if context.params.statistics.active:
        return _Task("statistics", lambda site: keys.update(step.round, site))
    if step.name.startswith("final/"):
        return _Task("evaluate", keys.evaluation)
    if step.name.startswith("agree/"):
        return _Task("levels", keys.agreement)
    if step.round == 0:
        return _Task("statistics", keys.masked_statistics)
    return _Task("train", lambda site: keys.update(step.round, site))


def _answers(
    context: RunContext, stage: str, binding: Binding, listed: bytes, alive: Mapping[str, bytes]
) -> dict[str, Sealed]:
    """Answers that are in order, still closed."""
    sealed: dict[str, Sealed] = {}
    present, which, graph = frozenset(alive), digest(listed), set_up_of(context).graph
    for site in sorted(alive):
        data = context.store.find(context.key(keys.answer(stage, site)))
        if data is None:
            continue
        try:
            sealed[site] = open_sealed(data, binding, site, which, present, graph, context.roster)
        except FolkmootError:
            continue  # as good as none: the others' may be enough
    return sealed


def _enough(sealed: Mapping[str, Sealed], opened: Mapping[str, object], threshold: int) -> None:
    if not opened:
        raise SecureError(
            "secure.threshold",
            f"{len(sealed)} sites answered this list of survivors, {threshold} are needed; the "
            "sum stays closed and nothing of it was revealed.",
            "Wait for the missing sites' answers and run the step again, or go on with the next round.",
        )


def _set_up(
    context: RunContext,
) -> tuple[Mapping[str, Announced], Mapping[str, Dealt]]:
    """Public keys and commitments of the members, read once per process."""
    if "secure.public" not in context.cache:
        session, own = session_of(context), set_up_of(context)
        announced, dealt = {}, {}
        for site in sorted(own.members):
            data = context.store.get(context.key(keys.secure("keys", site)))
            announced[site] = setup.open_keys(data, session, site, context.roster)
            data = context.store.get(context.key(keys.secure("shares", site)))
            dealt[site] = setup.open_shares(
                data, session, site, own.listed, own.graph, context.roster
            )
        context.cache["secure.public"] = (announced, dealt)
    found: tuple[Mapping[str, Announced], Mapping[str, Dealt]]
    found = context.cache["secure.public"]
    return found


def _changed(site: str) -> SecureError:
    return SecureError(
        "secure.survivors",
        f"The contribution of site {site} is gone or another than when the survivors were listed.",
        "Find out who changed the exchange store; the sum cannot be opened without it.",
        site=site,
    )


def _unfit(site: str, what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.mismatch",
        f"Site {site} {what}.",
        "Check that the site runs the same version of folkmoot, params and contract.",
        site=site,
    )
