"""A coordinator that lies about keys and shares while a sum is set up."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from folkmoot.secure import lists, setup
from folkmoot.secure.rehearsal import Rehearsal
from folkmoot.secure.session import Dealt, Keys
from folkmoot.wire import canonical_json, digest
from tests.secure.trial import NAMES, refused

# ---- swapped and stale keys


def _message(federation, name, **changes):
    party, session = federation.sites[name], federation.session
    keys = changes.get("keys", party.keys)
    session = changes.get("session", session)
    return setup.key_message(session, name, keys, changes.get("signing", party.signing))


def test_a_swapped_key(federation):
    swapped = _message(federation, "b", signing=federation.sites["c"].signing)
    check = setup.open_keys
    refused(
        lambda: check(swapped, federation.session, "b", federation.roster), "secure.key", "signed"
    )
    whole = _message(federation, "b")
    for i in (0, len(whole) // 2, len(whole) - 1):
        broken = bytearray(whole)
        broken[i] ^= 1
        refused(
            lambda data=bytes(broken): check(data, federation.session, "b", federation.roster),
            "secure.key",
        )
    refused(
        lambda: check(_message(federation, "c"), federation.session, "b", federation.roster),
        "secure.key",
    )


@pytest.mark.parametrize("field", ["federation", "run", "plan", "sums"])
def test_a_stale_key_of_another_run(federation, field):
    value = ((1, "train"),) if field == "sums" else "other"
    other = replace(federation.session, **{field: value})
    stale = _message(federation, "b", session=other)
    refused(
        lambda: setup.open_keys(stale, federation.session, "b", federation.roster),
        "secure.key",
        f"another {field}",
    )


def test_too_few_or_repeated_keys(federation):
    keys = federation.sites["b"].keys
    few = Keys(keys.seal, keys.masks[:2], keys.seeds[:2])
    twice = Keys(keys.seal, (keys.masks[0],) * 3, keys.seeds)
    for bad, word in ((few, "every sum"), (twice, "twice")):
        data = _message(federation, "b", keys=bad)
        refused(
            lambda data=data: setup.open_keys(data, federation.session, "b", federation.roster),
            "secure.key",
            word,
        )


def test_an_unknown_site(federation):
    data = _message(federation, "b")
    refused(
        lambda: setup.open_keys(data, federation.session, "z", federation.roster),
        "protocol.unknown-site",
    )


def test_a_key_list_or_member_list_of_another_run(federation):
    other = json.loads(federation.listed)
    for change in ({"run": "run-2"}, {"plan": "1" * 64}, {"sites": {}}, {"more": 1}):
        data = canonical_json({**other, **change})
        refused(lambda data=data: lists.open_list(data, federation.session), "secure.key")
    members = json.loads(federation.members_list)
    extra = {**members, "sites": {**members["sites"], "z": "0" * 64}}
    for change in ({**members, "keys": "0" * 64}, extra):
        data = canonical_json(change)
        refused(
            lambda data=data: lists.open_members(
                data, federation.session, federation.listed, federation.graph
            ),
            "secure.key",
        )
    few = canonical_json({**members, "sites": {"a": "0" * 64, "b": "0" * 64}})
    refused(
        lambda: lists.open_members(few, federation.session, federation.listed, federation.graph),
        "secure.threshold",
    )


# ---- shares


def test_swapped_and_replayed_boxes_cost_their_share_and_no_more():
    made = Rehearsal(NAMES, sums=1)
    made.announce(NAMES)
    inboxes = made.share(NAMES)
    for name in NAMES:
        made.receive(name, inboxes[name])
    swapped = {n: dict(made.dealt[n].boxes) for n in NAMES}
    swapped["b"]["a"] = swapped["b"]["c"]  # the box for c
    dealt = {n: (b"x", Dealt(swapped[n], made.dealt[n].commitments)) for n in NAMES}
    _, changed = setup.deal(made.session, made.listed, made.graph, dealt)
    refused(lambda: made.receive("a", changed["a"]), "secure.share", "another run, set-up")
    inbox = _inbox(made, "a", swapped)
    made.receive("a", inbox)
    assert made.sites["a"].held.faults == {"b": "secure.share"}
    assert "b" not in made.sites["a"].held.shares
    for dealer in ("c", "d"):
        swapped[dealer]["a"] = bytes(len(swapped[dealer]["a"]))
    refused(lambda: made.receive("a", _inbox(made, "a", swapped)), "secure.share", "site b")


def _inbox(made, site, boxes):
    """An inbox for the real member list with other boxes in it."""
    from folkmoot.wire import Artefact, encode

    rows = [np.frombuffer(boxes[o][site], np.uint8) for o in made.graph.of(site)]
    meta = made.session.bound(site=site, members=digest(made.members_list))
    return encode(Artefact("secure-inbox", meta, {"boxes": np.stack(rows)}))


def test_shares_of_another_shape(federation):
    made = Rehearsal(NAMES, sums=1)
    made.announce(NAMES)
    made.share(NAMES)
    data, _ = setup.share_message(
        made.session,
        "a",
        made.sites["a"].keys,
        made.listed,
        made.sites["a"].announced,
        made.sites["a"].signing,
    )
    assert setup.open_shares(data, made.session, "a", made.listed, made.graph, made.roster)
    refused(
        lambda: setup.open_shares(data, made.session, "b", made.listed, made.graph, made.roster),
        "secure.key",
    )
    other = Rehearsal(NAMES, sums=1)
    other.announce(NAMES)
    refused(
        lambda: setup.open_shares(data, made.session, "a", other.listed, made.graph, made.roster),
        "secure.key",
        "another keys",
    )
