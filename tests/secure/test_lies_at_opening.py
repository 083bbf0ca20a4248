"""Answers that must not open a sum, and what of them the coordinator may hold together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from folkmoot.errors import ProtocolError
from folkmoot.identity import sign
from folkmoot.secure.together import open_sealed, open_together
from folkmoot.wire import digest
from tests.secure.trial import NAMES, refused


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
            refused(lambda x=listed, m=mine: uploaded.leftover(x, m), "secure.threshold")


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
