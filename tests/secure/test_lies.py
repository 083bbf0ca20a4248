"""A coordinator that lies: every lie is refused by a site, with an error that says what it was."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from folkmoot.errors import FolkmootError, ProtocolError
from folkmoot.identity import sign
from folkmoot.secure import lists, setup, unmask
from folkmoot.secure.rehearsal import Rehearsal
from folkmoot.secure.session import Dealt, Keys
from folkmoot.secure.state import SiteState
from folkmoot.secure.together import open_sealed, open_together
from folkmoot.wire import canonical_json, digest

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def federation():
    made = Rehearsal(NAMES, sums=3)
    made.set_up()
    return made


@pytest.fixture
def uploaded(federation):
    for name in NAMES:
        federation.upload(name, np.zeros(4, np.uint64), 0)
    return federation


def _refused(call, code, *words):
    with pytest.raises(FolkmootError) as caught:
        call()
    assert caught.value.code == code
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_honest_list_is_answered(uploaded):
    assert uploaded.answer("a", uploaded.list_of(NAMES))
    assert uploaded.answer("b", uploaded.list_of(NAMES[:4]))


# ---- lies about survivors


def test_a_survivor_that_did_not_upload(uploaded):
    statements = {n: uploaded.sites[n].statements[0] for n in NAMES}
    forged = uploaded.sites["e"]
    body = unmask.statement(
        uploaded.session.binding(0),
        "e",
        "d",
        unmask.View("p", digest(uploaded.members_list), "l", "m"),
        uploaded.sites["d"].signing,  # not e's
    )
    assert forged
    listed = unmask.survivor_list(uploaded.session.binding(0), {**statements, "e": body})
    _refused(lambda: uploaded.answer("a", listed), "secure.survivors", "e", "did not sign")


def test_a_list_without_the_site_that_is_asked(uploaded):
    _refused(
        lambda: uploaded.answer("e", uploaded.list_of(NAMES[:4])), "secure.survivors", "leaves out"
    )


def test_one_sites_update_alone(uploaded):
    _refused(
        lambda: uploaded.answer("a", uploaded.list_of(["a"])), "secure.contributors", "1 sites"
    )
    _refused(
        lambda: uploaded.answer("a", uploaded.list_of(["a", "b"]), minimum=3),
        "secure.contributors",
        "2 sites",
    )


def test_fewer_survivors_than_the_threshold(uploaded):
    _refused(
        lambda: uploaded.answer("a", uploaded.list_of(NAMES[:3])), "secure.threshold", "3 of 5"
    )


def test_a_site_that_is_not_a_member(federation):
    federation.members = frozenset(NAMES[:4])
    for name in NAMES:
        federation.upload(name, np.zeros(4, np.uint64), 0)
    _refused(
        lambda: federation.answer("a", federation.list_of(NAMES)), "secure.survivors", "set-up"
    )


@pytest.mark.parametrize("what", ["plan", "members", "layout", "model"])
def test_another_plan_model_layout_or_member_list_for_one_site(federation, what):
    for name in NAMES:
        view = {what: "another"} if name == "c" else {}
        federation.upload(name, np.zeros(4, np.uint64), 0, **view)
    listed = federation.list_of(NAMES)
    _refused(lambda: federation.answer("a", listed), "secure.survivors", "c", f"another {what}")


def test_different_lists_for_different_sites_come_out_in_the_next_round(uploaded):
    one, other = uploaded.list_of(NAMES), uploaded.list_of(NAMES[:4])
    told = {"a": one, "b": one, "c": other, "d": other, "e": one}
    for name, listed in told.items():
        uploaded.answer(name, listed)  # each list alone is in order
        uploaded.upload(name, np.zeros(4, np.uint64), 1, answered=(0, digest(listed)))
    _refused(
        lambda: uploaded.answer("a", uploaded.list_of(NAMES, 1), 1),
        "secure.survivors",
        "another list",
        "c",
    )


def test_two_lists_never_open_a_sites_key_and_self_mask(uploaded):
    """Four of five must answer alike: no split of five sites gives four shares of both."""
    first, second = uploaded.list_of(NAMES), uploaded.list_of(NAMES[:4])
    for cut in range(6):
        seeds = keys = 0
        for i, name in enumerate(NAMES):
            listed = first if i < cut or name == "e" else second
            alive = sorted(unmask.open_list(listed, uploaded.session.binding(0)))
            assert uploaded.answer(name, listed)
            seeds += "e" in alive
            keys += "e" not in alive
        assert not (seeds >= uploaded.graph.threshold and keys >= uploaded.graph.threshold)


# ---- replays


def test_statements_of_another_round(uploaded):
    for name in NAMES:
        uploaded.upload(name, np.zeros(4, np.uint64), 1)
    old = {n: uploaded.sites[n].statements[0] for n in NAMES}
    fresh = {n: uploaded.sites[n].statements[1] for n in NAMES}
    listed = unmask.survivor_list(uploaded.session.binding(1), {**old, "a": fresh["a"]})
    _refused(lambda: uploaded.answer("a", listed, 1), "secure.survivors", "another run, round")


def test_the_list_of_another_round(uploaded):
    listed = uploaded.list_of(NAMES)
    uploaded.upload("a", np.zeros(4, np.uint64), 1)
    _refused(lambda: uploaded.answer("a", listed, 1), "secure.survivors", "another run, round")
    for broken in (b"", b"{}", b"[1]", listed[:-2], listed.replace(b"run-1", b"run-2")):
        _refused(lambda data=broken: uploaded.answer("a", data), "secure.survivors")


def test_a_round_is_not_contributed_to_twice(federation, tmp_path):
    state, binding = SiteState(tmp_path, "run-1", "a"), federation.session.binding(0)
    state.claim(0, binding, "release-1")
    state.claim(0, binding, "release-1")  # a retry
    _refused(
        lambda: SiteState(tmp_path, "run-1", "a").claim(0, binding, "release-2"),
        "secure.again",
        "same masks",
    )
    state.claim(1, binding, "release-2")


def test_a_second_list_is_not_answered(uploaded, tmp_path):
    state, binding = SiteState(tmp_path, "run-1", "a"), uploaded.session.binding(0)
    one, other = uploaded.list_of(NAMES), uploaded.list_of(NAMES[:4])
    first = state.answer(0, binding, one, lambda: b"answer")
    assert state.answer(0, binding, one, lambda: pytest.fail("made twice")) == first
    _refused(
        lambda: SiteState(tmp_path, "run-1", "a").answer(0, binding, other, lambda: b"more"),
        "secure.again",
        "second list",
    )
    assert state.answered(1) == (0, digest(one))
    assert state.answered(0) == (-1, "")


# ---- two sums that differ by one site


def test_sums_of_the_same_content_that_differ_by_one_site(tmp_path):
    SiteState(tmp_path, "run-1", "a").compare("content", NAMES, 3)
    later = SiteState(tmp_path, "run-2", "a")
    later.compare("content", list(reversed(NAMES)), 3)  # the same sites
    _refused(lambda: later.compare("content", NAMES[:4], 3), "secure.contributors", "differ by 1")
    _refused(lambda: later.compare("content", NAMES[:3], 3), "secure.contributors", "differ by 2")
    later.compare("content", NAMES[:2], 3)
    later.compare("another content", NAMES[:4], 3)


# ---- swapped and stale keys


def _message(federation, name, **changes):
    party, session = federation.sites[name], federation.session
    keys = changes.get("keys", party.keys)
    session = changes.get("session", session)
    return setup.key_message(session, name, keys, changes.get("signing", party.signing))


def test_a_swapped_key(federation):
    swapped = _message(federation, "b", signing=federation.sites["c"].signing)
    check = setup.open_keys
    _refused(
        lambda: check(swapped, federation.session, "b", federation.roster), "secure.key", "signed"
    )
    whole = _message(federation, "b")
    for i in (0, len(whole) // 2, len(whole) - 1):
        broken = bytearray(whole)
        broken[i] ^= 1
        _refused(
            lambda data=bytes(broken): check(data, federation.session, "b", federation.roster),
            "secure.key",
        )
    _refused(
        lambda: check(_message(federation, "c"), federation.session, "b", federation.roster),
        "secure.key",
    )


@pytest.mark.parametrize("field", ["federation", "run", "plan", "sums"])
def test_a_stale_key_of_another_run(federation, field):
    value = ((1, "train"),) if field == "sums" else "other"
    other = replace(federation.session, **{field: value})
    stale = _message(federation, "b", session=other)
    _refused(
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
        _refused(
            lambda data=data: setup.open_keys(data, federation.session, "b", federation.roster),
            "secure.key",
            word,
        )


def test_an_unknown_site(federation):
    data = _message(federation, "b")
    _refused(
        lambda: setup.open_keys(data, federation.session, "z", federation.roster),
        "protocol.unknown-site",
    )


def test_a_key_list_or_member_list_of_another_run(federation):
    other = json.loads(federation.listed)
    for change in ({"run": "run-2"}, {"plan": "1" * 64}, {"sites": {}}, {"more": 1}):
        data = canonical_json({**other, **change})
        _refused(lambda data=data: lists.open_list(data, federation.session), "secure.key")
    members = json.loads(federation.members_list)
    extra = {**members, "sites": {**members["sites"], "z": "0" * 64}}
    for change in ({**members, "keys": "0" * 64}, extra):
        data = canonical_json(change)
        _refused(
            lambda data=data: lists.open_members(
                data, federation.session, federation.listed, federation.graph
            ),
            "secure.key",
        )
    few = canonical_json({**members, "sites": {"a": "0" * 64, "b": "0" * 64}})
    _refused(
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
    _refused(lambda: made.receive("a", changed["a"]), "secure.share", "another run, set-up")
    inbox = _inbox(made, "a", swapped)
    made.receive("a", inbox)
    assert made.sites["a"].held.faults == {"b": "secure.share"}
    assert "b" not in made.sites["a"].held.shares
    for dealer in ("c", "d"):
        swapped[dealer]["a"] = bytes(len(swapped[dealer]["a"]))
    _refused(lambda: made.receive("a", _inbox(made, "a", swapped)), "secure.share", "site b")


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
    _refused(
        lambda: setup.open_shares(data, made.session, "b", made.listed, made.graph, made.roster),
        "secure.key",
    )
    other = Rehearsal(NAMES, sums=1)
    other.announce(NAMES)
    _refused(
        lambda: setup.open_shares(data, made.session, "a", other.listed, made.graph, made.roster),
        "secure.key",
        "another keys",
    )


# ---- answers, at the coordinator


def test_answers_about_another_list_or_in_anothers_name(uploaded):
    listed, binding = uploaded.list_of(NAMES), uploaded.session.binding(0)
    data, graph, roster = uploaded.answer("a", listed), uploaded.graph, uploaded.roster
    assert open_sealed(data, binding, "a", digest(listed), NAMES, graph, roster).box
    attempts = [
        (data, binding, "a", digest(uploaded.list_of(NAMES[:4])), NAMES),
        (data, uploaded.session.binding(1), "a", digest(listed), NAMES),
        (data, binding, "a", digest(listed), NAMES[:4]),
        (sign(data, uploaded.sites["b"].signing), binding, "a", digest(listed), NAMES),
    ]
    for attempt in attempts:
        with pytest.raises(ProtocolError) as caught:
            open_sealed(*attempt, graph, roster)
        assert caught.value.site in {"a", None}


def test_an_answer_holds_a_seed_or_a_key_of_a_site_and_never_both(uploaded):
    listed = uploaded.list_of(NAMES[:4])
    answers = {n: uploaded.answer(n, listed) for n in NAMES[:4]}
    found = uploaded.opened(listed, answers)
    assert sorted(found) == NAMES[:4]
    assert found["a"].seeds.keys() == set(NAMES[:4])
    assert found["a"].keys.keys() == {"e"}


@pytest.mark.parametrize("split", [1, 2, 3])
def test_different_lists_in_one_round_open_nothing_that_the_threshold_did_not_see(uploaded, split):
    """Each site answers a list that is in order; the answers open beside four alike, or never."""
    one, other = uploaded.list_of(NAMES), uploaded.list_of(NAMES[:4])
    told = {n: other if i < split else one for i, n in enumerate(NAMES)}
    answers = {n: uploaded.answer(n, listed) for n, listed in told.items()}
    for listed in (one, other):
        mine = {n: data for n, data in answers.items() if told[n] is listed}
        found = uploaded.opened(listed, mine)
        assert sorted(found) == (sorted(mine) if len(mine) >= 4 else [])
        if len(mine) < 4:
            _refused(lambda x=listed, m=mine: uploaded.leftover(x, m), "secure.threshold")


def test_pads_of_another_list_or_a_stranger_open_nothing(uploaded):
    """Not even whoever relabels an answer, or makes the pads up, reads one more."""
    listed, binding = uploaded.list_of(NAMES), uploaded.session.binding(0)
    other = uploaded.list_of(NAMES[:4])
    which, graph = digest(listed), uploaded.graph
    honest = {n: uploaded.answer(n, listed) for n in "abc"}
    sealed = {
        n: open_sealed(data, binding, n, which, NAMES, graph, uploaded.roster)
        for n, data in honest.items()
    }
    assert open_together(sealed, binding, which, graph) == {}  # three of five, four are needed
    d = open_sealed(
        uploaded.answer("d", other), binding, "d", digest(other), NAMES[:4], graph, uploaded.roster
    )
    assert open_together({**sealed, "d": d}, binding, which, graph) == {}
    random = {n: np.arange(5, dtype=np.uint32) for n in "abc"}
    assert open_together({**sealed, "d": replace(d, pads=random)}, binding, which, graph) == {}
    true = open_sealed(
        uploaded.answer("d", listed), binding, "d", which, NAMES, graph, uploaded.roster
    )
    assert sorted(open_together({**sealed, "d": true}, binding, which, graph)) == list("abcd")
    e = open_sealed(
        uploaded.answer("e", listed), binding, "e", which, NAMES, graph, uploaded.roster
    )
    bad = {**sealed, "d": replace(true, pads=random), "e": e}
    assert sorted(open_together(bad, binding, which, graph)) == list(
        "abcde"
    )  # one false is survived


# ---- memory of a site


def test_what_is_written_once_stays(tmp_path):
    state = SiteState(tmp_path, "run", "a")
    assert state.once("keys", lambda: b"first") == b"first"
    assert SiteState(tmp_path, "run", "a").once("keys", lambda: b"second") == b"first"
    assert SiteState(tmp_path, "run-2", "a").once("keys", lambda: b"second") == b"second"
    assert [p.name for p in (tmp_path / "runs" / "run").iterdir()] == ["keys"]
    assert (tmp_path / "runs" / "run" / "keys").stat().st_mode & 0o077 == 0


def test_of_two_processes_the_first_to_write_wins(tmp_path):
    slow, fast = SiteState(tmp_path, "run", "a"), SiteState(tmp_path, "run", "a")

    def meanwhile():
        assert fast.once("keys", lambda: b"fast") == b"fast"
        return b"slow"

    assert slow.once("keys", meanwhile) == b"fast"


def test_a_torn_journal_line_was_never_acted_on(tmp_path):
    state = SiteState(tmp_path, "run", "a")
    assert state.decide("upload-0000", "one") == "one"
    journal = tmp_path / "runs" / "run" / "journal"
    journal.write_bytes(journal.read_bytes() + b'["upload-0001", "tw')
    again = SiteState(tmp_path, "run", "a")
    assert again.decide("upload-0001", "three") == "three"
    assert again.decide("upload-0000", "other") == "one"
    assert again.decide("upload-0001", "other") == "three"
    assert journal.stat().st_mode & 0o077 == 0
