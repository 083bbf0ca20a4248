"""The coordinator's side of anchors: remember every site's last ledger entry, and sign it.

``coordinator/<federation>/anchors.json`` keeps them over all runs, so that a site that was set back
between two runs is found out in the opening of the next one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from folkmoot.errors import ProtocolError
from folkmoot.plan import RunContext, Step
from folkmoot.privacy.ledger import anchor
from pipelines.coordinator.identity import coordinator_key
from pipelines.coordinator.lock import folder

__all__ = ["after_round", "at_opening", "known"]


def at_opening(context: RunContext) -> None:
    """Give a new run the anchors of all runs before it; an opened one keeps those it has."""
    if context.roster.coordinator is not None:
        _publish(context, 0, known(context.workspace, context.federation))


def after_round(step: Step, context: RunContext) -> None:
    """Take in the heads that sites showed in a round, and countersign; O(sites).

    Only heads that go on from what is known are taken: one of a lower number, or of the same with
    another chain value, is that of an older or second copy, and the site will be refused by itself
    when it gets the anchor that it does not hold.  A head that is damaged or forged is left out.
    """
    if context.roster.coordinator is None:
        return
    if not anchor.shown(step.round, context.params.privacy.mechanism):
        return
    # Under masks the step follows the opening of the sum; heads were shown with what went into it.
    shown = [name.replace("/unmask/", "/train/") for name in step.after]
    found = {
        name.rsplit("/", 1)[1]: context.store.find(
            anchor.head_key(context.federation, context.run, name)
        )
        for name in shown
    }
    if not any(found.values()):
        return
    anchors = known(context.workspace, context.federation)
    for site, data in found.items():
        if data is None:
            continue
        with suppress(ProtocolError):
            head = anchor.open_head(data, site, context.roster.key(site))
            if site not in anchors or head.seq > anchors[site][0]:
                anchors[site] = (head.seq, head.chain)
    _remember(context.workspace, context.federation, anchors)
    members = context.params.federation.members
    _publish(context, step.round, {site: anchors[site] for site in members if site in anchors})


def known(workspace: Path, federation: str) -> anchor.Anchors:
    """Newest known ledger entry of every site of a federation."""
    try:
        values = json.loads(_path(workspace, federation).read_text(encoding="utf-8"))
        return {str(site): (int(seq), str(chain)) for site, (seq, chain) in values.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        raise ProtocolError(
            "protocol.format",
            f"{_path(workspace, federation)} does not hold the anchors of the sites' ledgers.",
            "Restore it from the coordinator's backup; deleting it forgives every rewound ledger.",
        ) from None


def _remember(workspace: Path, federation: str, anchors: anchor.Anchors) -> None:
    path = _path(workspace, federation)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(anchors, sort_keys=True), encoding="utf-8")
    os.replace(part, path)


def _publish(context: RunContext, round: int, anchors: anchor.Anchors) -> None:
    if not anchors:
        return
    data = anchor.countersign(
        anchors,
        federation=context.federation,
        run=context.run,
        round=round,
        key=coordinator_key(context.workspace),
    )
    with suppress(ProtocolError):  # published before this step was repeated: those stand
        context.store.put(anchor.anchors_key(context.federation, context.run, round), data)


def _path(workspace: Path, federation: str) -> Path:
    return folder(workspace, federation) / "anchors.json"
