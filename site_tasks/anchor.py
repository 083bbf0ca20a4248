"""A site's side of anchors: show the ledger's last entry, hold the ledger to what comes back."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from folkmoot.errors import PrivacyError, ProtocolError
from folkmoot.privacy.ledger import anchor

if TYPE_CHECKING:
    from folkmoot.plan import RunContext, Step
    from folkmoot.privacy.ledger import Ledger
    from site_tasks.home import SiteHome

__all__ = ["check", "hold", "show"]


def check(step: Step, context: RunContext, home: SiteHome, ledger: Ledger) -> None:
    """Hold the ledger to the newest entry that the coordinator countersigned, where there is one.

    Raises
    ------
    PrivacyError
        ``privacy.ledger`` where the ledger does not hold it: an older copy was put in its place,
        or two copies went on side by side.
    ProtocolError
        ``protocol.signature`` or ``protocol.mismatch`` for anchors that are not the coordinator's.
    """
    in_round = step.name.startswith("round-")
    hold(home.name, ledger, _anchors(context, max(step.round - in_round, 0)))


def hold(site: str, ledger: Ledger, anchors: anchor.Anchors) -> None:
    """Raise ``privacy.ledger`` unless the ledger holds the anchored entry of its site."""
    if site in anchors and not ledger.holds(*anchors[site]):
        raise PrivacyError(
            "privacy.ledger",
            f"The privacy ledger of site {site} was rewound or copied: it does not hold its "
            f"entry {anchors[site][0]}, which the coordinator has countersigned.",
            "Restore private/ from its newest backup. Where none holds that entry, what was spent is "
            "not known: make a new site with a new key, and let it start with new people.",
            site=site,
        )


def show(step: Step, context: RunContext, home: SiteHome, ledger: Ledger) -> None:
    """Publish the ledger's last entry: number, chain value and signature, nothing of its content.

    Every round of a plan that spends budget; else the first round alone, which enters the version.
    """
    if context.roster.coordinator is None or not step.name.startswith("round-"):
        return
    if not anchor.shown(step.round, context.params.privacy.mechanism):
        return
    key = anchor.head_key(context.federation, context.run, step.name)
    with suppress(ProtocolError):  # shown before this step was repeated: that one stands
        context.store.put(key, anchor.to_bytes(home.name, ledger.signed_head()))


def _anchors(context: RunContext, round: int) -> anchor.Anchors:
    """Anchors behind ``round``, or behind the newest round before it that has some."""
    public = context.roster.coordinator
    if public is None:
        return {}
    name = ("anchors", round)
    if name not in context.cache:
        # Of an exact plan only the first round has some (`show`).
        newest = round if anchor.shown(round, context.params.privacy.mechanism) else 1
        data, number = None, round
        for number in dict.fromkeys((newest, min(round, 1), 0)):
            key = anchor.anchors_key(context.federation, context.run, number)
            data = context.store.find(key)
            if data is not None:
                break
        if data is None:
            return {}
        # An exact plan's rounds all come back to the anchors of its first one.
        opened = ("anchors opened", number)
        if context.cache.get(opened, (None,))[0] != data:
            context.cache[opened] = (
                data,
                anchor.open_anchors(
                    data, federation=context.federation, run=context.run, round=number, key=public
                ),
            )
        context.cache[name] = context.cache[opened][1]
    found: anchor.Anchors = context.cache[name]
    return found
