"""Lies to the sum, of a site and of the coordinator: left out, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from folkmoot.identity import sign, verify
from folkmoot.plan import keys
from folkmoot.secure.layout import Layout
from folkmoot.secure.run import index_of, session_of
from folkmoot.secure.unmask import View, open_list, open_statement, statement, survivor_list
from folkmoot.wire import Artefact, canonical_json, decode, digest, encode
from pipelines.hosts.execute import execute
from site_tasks.home import SiteHome
from tests.conftest import signed_anew
from tests.secure.trial import SITES, Trial

# ---- lies of a site: it is left out, and the others' sum opens


def _coarser(meta: Any, arrays: Any) -> None:
    """Another scale: the same numbers would mean twice as much."""
    for block in meta["secure"]["layout"]["blocks"]:
        block["grid"]["exponent"] -= 1


UPLOADS: dict[str, Callable[[Any, Any], Any]] = {
    "longer": lambda meta, a: a.update(masked=np.append(a["masked"], np.uint64(1))),
    "shorter": lambda meta, a: a.update(masked=a["masked"][:-1]),
    "of 32 bits": lambda meta, a: a.update(masked=a["masked"].astype(np.uint32)),
    "no numbers of the ring": lambda meta, a: a.update(masked=np.full(a["masked"].shape, np.nan)),
    "under another name": lambda meta, a: a.update(other=a.pop("masked")),
    "on a coarser grid": _coarser,
}


@pytest.mark.parametrize("name", UPLOADS)
def test_a_vector_that_is_not_the_sums_own(trial: Trial, name: str) -> None:
    signing = SiteHome.find("site-e", trial.workspace).key()
    path = trial.path(keys.update(1, "site-e"))
    said = trial.path(keys.statement("round-001", "site-e"))
    artefact = decode(verify(path.read_bytes(), signing.public_key(), what="test"), kind="update")
    meta, arrays = json.loads(json.dumps(artefact.meta)), dict(artefact.arrays)
    UPLOADS[name](meta, arrays)
    # Its statement fits what it sends: signed, and about this very sum.
    step = trial.plan.step("round-001/survivors")
    binding = session_of(trial.context).binding(index_of(step, trial.context))
    _, view = open_statement(said.read_bytes(), binding, "site-e", trial.context.roster)
    layout = Layout.from_dict(meta["secure"]["layout"]).digest()
    view = View(view.plan, view.members, layout, view.model, view.answered)
    meta["secure"]["view"] = view.to_dict()
    data = sign(encode(Artefact("update", meta, arrays)), signing)
    path.write_bytes(data)
    said.write_bytes(statement(binding, "site-e", digest(data), view, signing))
    trial.walk("round-001/", without=("site-e",))
    record = json.loads(trial.path(keys.record(1)).read_bytes())
    assert sorted(record["participants"]) == SITES[:-1]
    assert record["missing"]["site-e"] in {"protocol.mismatch", "protocol.format"}


# ---- lies of the coordinator, through the exchange store


def test_a_round_asked_for_again_with_another_model(trial: Trial) -> None:
    model = decode(trial.path(keys.model(0)).read_bytes(), kind="model")
    arrays = {**model.arrays, "coef": np.ones_like(model.arrays["coef"])}
    other = encode(Artefact("model", model.meta, arrays))
    signed_anew(trial.context, keys.model(0), other)
    trial.path(keys.update(1, "site-a")).unlink()
    trial.refused("round-001/train/site-a", "secure.again", "another contribution", "round 1")


def test_another_model_for_one_site(trial: Trial) -> None:
    """site-a was sent a model of its own: the others see it in its statement."""
    statements = {s: trial.path(keys.statement("round-001", s)).read_bytes() for s in SITES}
    home = SiteHome.find("site-a", trial.workspace)
    binding = session_of(trial.fresh()).binding(1)
    upload, view = open_statement(statements["site-a"], binding, "site-a", trial.context.roster)
    lied = View(**{**view.to_dict(), "model": "0" * 64, "answered": view.answered})
    statements["site-a"] = statement(binding, "site-a", upload, lied, home.key())
    trial.path(keys.survivors("round-001")).write_bytes(survivor_list(binding, statements))
    trial.refused("round-001/unmask/site-b", "secure.survivors", "site-a", "another model")


@pytest.mark.parametrize(
    ("names", "code"), [(SITES[:1], "secure.contributors"), (SITES[:3], "secure.threshold")]
)
def test_a_list_of_one_site_or_of_too_few(trial: Trial, names: list[str], code: str) -> None:
    binding = session_of(trial.fresh()).binding(1)
    chosen = {s: trial.path(keys.statement("round-001", s)).read_bytes() for s in names}
    trial.path(keys.survivors("round-001")).write_bytes(survivor_list(binding, chosen))
    trial.refused("round-001/unmask/site-a", code)
    assert not trial.path(keys.answer("round-001", "site-a")).exists()


def test_a_second_list_in_a_round(trial: Trial) -> None:
    execute(trial.plan.step("round-001/survivors"), trial.fresh())
    execute(trial.plan.step("round-001/unmask/site-a"), trial.fresh())
    binding = session_of(trial.fresh()).binding(1)
    statements = open_list(trial.path(keys.survivors("round-001")).read_bytes(), binding)
    statements.pop("site-e")
    trial.path(keys.survivors("round-001")).write_bytes(survivor_list(binding, statements))
    trial.path(keys.answer("round-001", "site-a")).unlink()
    trial.refused("round-001/unmask/site-a", "secure.again", "second list")


def test_swapped_keys_and_lists(announced: Trial) -> None:
    trial = announced
    path = trial.path(keys.secure("keys", "site-b"))
    honest = path.read_bytes()
    path.write_bytes(trial.path(keys.secure("keys", "site-c")).read_bytes())
    trial.refused("setup/share/site-a", "protocol.digest")
    trial.refused("setup/share/site-b", "secure.key", "not one that it made")
    path.write_bytes(honest)
    listed = json.loads(trial.path(keys.SECURE_KEYS).read_text())
    swapped = {**listed["sites"], "site-a": listed["sites"]["site-b"]}
    trial.path(keys.SECURE_KEYS).write_bytes(canonical_json({**listed, "sites": swapped}))
    trial.refused("setup/share/site-a", "secure.key", "another key of site site-a")
    few = {s: listed["sites"][s] for s in SITES[:2]}
    trial.path(keys.SECURE_KEYS).write_bytes(canonical_json({**listed, "sites": few}))
    trial.refused("setup/share/site-a", "secure.contributors", "Only 2 sites")
    trial.path(keys.SECURE_KEYS).write_bytes(canonical_json({**listed, "plan": "0" * 64}))
    trial.refused("setup/share/site-a", "secure.key", "another run, plan")


def test_another_member_list_in_a_later_round(trial: Trial) -> None:
    members = json.loads(trial.path(keys.SECURE_MEMBERS).read_text())
    fewer = {s: members["sites"][s] for s in SITES[:4]}
    trial.walk("round-001/")
    trial.path(keys.SECURE_MEMBERS).write_bytes(canonical_json({**members, "sites": fewer}))
    trial.refused("round-002/train/site-a", "secure.key", "another list of members")
