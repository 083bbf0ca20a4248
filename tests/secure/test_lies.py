"""A coordinator that lies about who is in a sum: every lie is refused, with what it was."""

from __future__ import annotations

import numpy as np
import pytest

from folkmoot.secure import unmask
from folkmoot.secure.state import SiteState
from folkmoot.wire import digest
from tests.secure.trial import NAMES, refused


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
    refused(lambda: uploaded.answer("a", listed), "secure.survivors", "e", "did not sign")


def test_a_list_without_the_site_that_is_asked(uploaded):
    refused(
        lambda: uploaded.answer("e", uploaded.list_of(NAMES[:4])), "secure.survivors", "leaves out"
    )


def test_one_sites_update_alone(uploaded):
    refused(lambda: uploaded.answer("a", uploaded.list_of(["a"])), "secure.contributors", "1 sites")
    refused(
        lambda: uploaded.answer("a", uploaded.list_of(["a", "b"]), minimum=3),
        "secure.contributors",
        "2 sites",
    )


def test_fewer_survivors_than_the_threshold(uploaded):
    refused(lambda: uploaded.answer("a", uploaded.list_of(NAMES[:3])), "secure.threshold", "3 of 5")


def test_a_site_that_is_not_a_member(federation):
    federation.members = frozenset(NAMES[:4])
    for name in NAMES:
        federation.upload(name, np.zeros(4, np.uint64), 0)
    refused(lambda: federation.answer("a", federation.list_of(NAMES)), "secure.survivors", "set-up")


@pytest.mark.parametrize("what", ["plan", "members", "layout", "model"])
def test_another_plan_model_layout_or_member_list_for_one_site(federation, what):
    for name in NAMES:
        view = {what: "another"} if name == "c" else {}
        federation.upload(name, np.zeros(4, np.uint64), 0, **view)
    listed = federation.list_of(NAMES)
    refused(lambda: federation.answer("a", listed), "secure.survivors", "c", f"another {what}")


def test_different_lists_for_different_sites_come_out_in_the_next_round(uploaded):
    one, other = uploaded.list_of(NAMES), uploaded.list_of(NAMES[:4])
    told = {"a": one, "b": one, "c": other, "d": other, "e": one}
    for name, listed in told.items():
        uploaded.answer(name, listed)  # each list alone is in order
        uploaded.upload(name, np.zeros(4, np.uint64), 1, answered=(0, digest(listed)))
    refused(
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
    refused(lambda: uploaded.answer("a", listed, 1), "secure.survivors", "another run, round")


def test_the_list_of_another_round(uploaded):
    listed = uploaded.list_of(NAMES)
    uploaded.upload("a", np.zeros(4, np.uint64), 1)
    refused(lambda: uploaded.answer("a", listed, 1), "secure.survivors", "another run, round")
    for broken in (b"", b"{}", b"[1]", listed[:-2], listed.replace(b"run-1", b"run-2")):
        refused(lambda data=broken: uploaded.answer("a", data), "secure.survivors")


def test_a_round_is_not_contributed_to_twice(federation, tmp_path):
    state, binding = SiteState(tmp_path, "run-1", "a"), federation.session.binding(0)
    state.claim(0, binding, "release-1")
    state.claim(0, binding, "release-1")  # a retry
    refused(
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
    refused(
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
    refused(lambda: later.compare("content", NAMES[:4], 3), "secure.contributors", "differ by 1")
    refused(lambda: later.compare("content", NAMES[:3], 3), "secure.contributors", "differ by 2")
    later.compare("content", NAMES[:2], 3)
    later.compare("another content", NAMES[:4], 3)
