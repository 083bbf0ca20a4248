"""Runs under masks: equal to plain runs on the grid bit for bit, whoever is lost, whoever lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import ConfigError, FolkmootError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import sign, verify
from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext, keys
from folkmoot.secure import recover
from folkmoot.secure.layout import Layout
from folkmoot.secure.run import index_of, session_of
from folkmoot.secure.unmask import View, open_list, open_statement, statement, survivor_list
from folkmoot.wire import Artefact, canonical_json, decode, digest, encode
from pipelines.coordinator.open_round import open_run
from pipelines.hosts import embedded
from pipelines.hosts.execute import execute
from pipelines.hosts.walk import contract_for, roster_for
from pipelines.plans import plan_of
from site_tasks.home import SiteHome
from site_tasks.secure import conceal
from site_tasks.settings import save_settings
from tests.conftest import copy_workspace, signed_anew

SITES = ["site-a", "site-b", "site-c", "site-d", "site-e"]
BASE = {
    "federation": {"sites": SITES, "quorum": 4},
    "data": {"recipe": "synthetic", "rows": 400, "columns": 4},
    "tracking": {"enabled": False},
}


def settings(strategy: str = "fedavg", rounds: int = 2, **sections: Any) -> Params:
    values: dict[str, Any] = json.loads(json.dumps(BASE))
    values["model"] = {"linear": {"strategy": strategy, "rounds": rounds}}
    values["aggregation"] = {"protection": "masks"}
    for section, more in sections.items():
        values.setdefault(section, {}).update(more)
    return parse_params(values)


def model_of(workspace: Path, result: dict[str, Any]) -> Any:
    root = workspace / "exchange" / "demo" / "runs" / result["run"]
    return decode((root / result["model"]).read_bytes(), kind="model")


class Trial:
    """A federation that is walked step by step, with a hand on everything in between."""

    def __init__(self, params: Params, workspace: Path) -> None:
        contract = contract_for(params)
        self.plan = plan_of(params, contract)
        self.workspace = workspace
        store = ExchangeStore(workspace / "exchange")
        self.context = open_run(params, contract, roster_for(workspace), "r", store, workspace)

    def fresh(self) -> RunContext:
        """As another process would have it."""
        old = self.context
        return RunContext(old.run, old.params, old.contract, old.roster, old.store, old.workspace)

    def walk(self, *stages: str, until: str = "", without: tuple[str, ...] = ()) -> None:
        for stage in stages:
            for step in self.plan.stage(stage):
                if until and until in step.name:
                    return
                if step.place not in without:
                    execute(step, self.fresh())

    def path(self, key: str) -> Path:
        return self.workspace / "exchange" / self.context.key(key)

    def refused(self, step: str, code: str, *words: str) -> None:
        with pytest.raises(FolkmootError) as caught:
            execute(self.plan.step(step), self.fresh())
        assert caught.value.code == code, str(caught.value)
        assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.fixture(scope="module")
def uploaded(
    prototype: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Workspaces after the keys were announced, and after the first round's uploads."""
    params = settings()
    root = tmp_path_factory.mktemp("uploaded")
    copy_workspace(prototype(params), root / "announced")
    made = Trial(params, root / "announced")
    made.walk("prepare/")
    made.walk("setup/", until="share")
    copy_workspace(root / "announced", root / "uploaded")
    made = Trial(params, root / "uploaded")
    made.walk("setup/", "round-000/")
    made.walk("round-001/", until="survivors")
    return {"announced": root / "announced", "uploaded": root / "uploaded"}


def _copy(source: Path, target: Path) -> Trial:
    copy_workspace(source, target)
    return Trial(settings(), target)


@pytest.fixture
def trial(uploaded: dict[str, Path], tmp_path: Path) -> Trial:
    """After the first round's uploads."""
    return _copy(uploaded["uploaded"], tmp_path / "trial")


@pytest.fixture
def announced(uploaded: dict[str, Path], tmp_path: Path) -> Trial:
    """After the first task of the set-up."""
    return _copy(uploaded["announced"], tmp_path / "trial")


@pytest.mark.parametrize("strategy", ["scaffold", "newton"])
def test_a_masked_run_equals_the_run_without_masks_bit_for_bit(
    strategy: str, workspace_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = strategy == "scaffold"  # every weight one, every value clipped: 32 bits are enough
    more: dict[str, Any] = {"privacy": {"mechanism": "clip", "clip_norm": 0.5}} if narrow else {}
    params = settings(strategy, aggregation={"weighting": "uniform" if narrow else "rows"}, **more)
    masked = workspace_of(params, "masked")
    one = embedded.run(params, run="r", workspace=masked)
    with monkeypatch.context() as patch:
        patch.setattr(conceal, "add_masks", lambda vector, add, subtract: None)
        patch.setattr(recover, "unmask", lambda total, add, subtract, threads=1: None)
        grid = workspace_of(params, "grid")
        other = embedded.run(params, run="r", workspace=grid)
    folder = masked / "exchange" / "demo" / "runs" / "r"
    upload = decode((folder / keys.update(1, "site-a")).read_bytes()[:-84], kind="update").arrays
    assert set(upload) == ({"masked", "narrow"} if narrow else {"masked"})
    if narrow:  # delta and control: four bytes a parameter
        coef = model_of(masked, one).arrays["coef"]
        assert upload["narrow"].nbytes == 4 * 2 * (coef.size + 1)
    for name, array in model_of(masked, one).arrays.items():
        assert array.tobytes() == model_of(grid, other).arrays[name].tobytes(), name
    assert one["metrics"] == other["metrics"]
    plain = params.model_copy(
        update={"aggregation": params.aggregation.model_copy(update={"protection": "none"})}
    )
    clear = workspace_of(plain, "clear")
    third = embedded.run(plain, run="r", workspace=clear)
    found, expected = model_of(masked, one).arrays["coef"], model_of(clear, third).arrays["coef"]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert one["metrics"]["sites"] == {}
    assert one["metrics"]["overall"]["auc"] == pytest.approx(
        third["metrics"]["overall"]["auc"], abs=1e-3
    )


def test_nothing_of_a_single_site_is_in_the_exchange_store(trial: Trial) -> None:
    upload = decode(trial.path(keys.update(1, "site-a")).read_bytes()[:-84], kind="update")
    assert set(upload.arrays) == {"masked"}
    assert upload.meta["parts"]["update"] == {"kind": "masked", "weight": 1.0}
    vector = upload.arrays["masked"]
    others = [
        decode(trial.path(keys.update(1, site)).read_bytes()[:-84]).arrays["masked"]
        for site in SITES[1:]
    ]
    assert all(np.mean(vector == other) < 0.2 for other in others)
    # numbers below 2^40 in a uniform vector of 64 bits: one in 2^24
    assert np.mean(vector < 2**40) < 0.2
    receipt = decode(trial.path(keys.statistics("site-a")).read_bytes()[:-84])
    assert not receipt.arrays
    assert not receipt.meta["parts"]


def test_a_site_lost_before_the_upload_is_left_out(trial: Trial) -> None:
    trial.path(keys.statement("round-001", "site-e")).unlink()
    trial.path(keys.update(1, "site-e")).unlink()
    trial.walk("round-001/", without=("site-e",))
    record = json.loads(trial.path(keys.record(1)).read_text())
    assert sorted(record["participants"]) == SITES[:4]
    assert record["missing"] == {"site-e": "protocol.missing"}
    assert set(record["participants"].values()) == {None}


def test_scaffold_under_masks_knows_who_was_missing(trial: Trial) -> None:
    """The shared variate moves by the contributors' share of the weight, from sums alone."""
    from folkmoot.updates import RELEASED_DOOR, LinearUpdate, ReleasedUpdate, SummedUpdate
    from pipelines.coordinator.aggregate import scaffold

    shape, rng = (1, 5), np.random.default_rng(0)
    weights = {"a": 100.0, "b": 50.0, "c": 250.0}
    parts = {
        s: LinearUpdate({n: rng.normal(size=shape) for n in ("delta", "control")}, w)
        for s, w in weights.items()
    }
    arrays = {"coef": np.zeros((1, 4)), "intercept": np.zeros(1), "mean": np.zeros(4)}
    arrays |= {"scale": np.ones(4), "state.control": np.ones(shape)}
    models = [
        Artefact("model", {"weights": known}, arrays)
        for known in (weights, {"*": sum(weights.values())})
    ]
    here = ["a", "c"]
    single = [ReleasedUpdate(RELEASED_DOOR, {"site": s}, {"update": parts[s]}, "") for s in here]
    mean = {
        name: sum(weights[s] * parts[s].arrays[name] for s in here) / 350.0
        for name in ("delta", "control")
    }
    total = SummedUpdate(
        RELEASED_DOOR, {"site": "*", "sites": here}, {"update": LinearUpdate(mean, 350.0)}, ""
    )
    plain, _ = scaffold.aggregate(models[0], single, trial.context, 1)
    masked, meta = scaffold.aggregate(models[1], [total], trial.context, 1)
    for name, array in plain.items():
        np.testing.assert_allclose(masked[name], array, rtol=1e-12, atol=1e-15)
    assert meta["weights"] == {"*": 400.0}


def test_a_site_lost_between_upload_and_answer_stays_in_the_sum(trial: Trial) -> None:
    before = {s: trial.path(keys.update(1, s)).read_bytes() for s in SITES}
    for step in trial.plan.stage("round-001/"):
        if step.name != "round-001/unmask/site-b":
            execute(step, trial.fresh())
    record = json.loads(trial.path(keys.record(1)).read_text())
    assert sorted(record["participants"]) == SITES
    assert record["secure"]["silent"] == ["site-b"]
    assert before == {s: trial.path(keys.update(1, s)).read_bytes() for s in SITES}
    trial.walk("round-002/")  # and it is back in the next round
    assert sorted(json.loads(trial.path(keys.record(2)).read_text())["participants"]) == SITES


def test_too_few_answers_close_no_round_and_late_ones_do(trial: Trial) -> None:
    for step in trial.plan.stage("round-001/"):
        if step.place not in {"site-b", "site-c"} and not step.name.endswith("aggregate"):
            execute(step, trial.fresh())
    trial.refused("round-001/aggregate", "secure.threshold", "3 sites", "4 are needed")
    assert not trial.path(keys.model(1)).exists()
    execute(trial.plan.step("round-001/unmask/site-b"), trial.fresh())
    execute(trial.plan.step("round-001/aggregate"), trial.fresh())
    assert trial.path(keys.model(1)).exists()


def test_a_restarted_task_publishes_the_same_bytes(trial: Trial) -> None:
    for what in (keys.update(1, "site-a"), keys.statement("round-001", "site-a")):
        first = trial.path(what).read_bytes()
        trial.path(what).unlink()
        execute(trial.plan.step("round-001/train/site-a"), trial.fresh())
        assert trial.path(what).read_bytes() == first


def test_statistics_of_two_runs_that_differ_by_one_site(trial: Trial) -> None:
    """The same rows again without site-e: the difference would be its statistics."""
    again = Trial(trial.context.params, trial.workspace)
    object.__setattr__(again.context, "run", "r2")
    signed_anew(again.context, keys.RUN, b"{}")
    again.walk("prepare/", "setup/")
    again.walk("round-000/", until="survivors", without=("site-e",))
    execute(again.plan.step("round-000/survivors"), again.fresh())
    again.refused("round-000/unmask/site-a", "secure.contributors", "differ by 1 sites")


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
    from folkmoot.wire import encode

    arrays = {**model.arrays, "coef": np.ones_like(model.arrays["coef"])}
    other = encode(Artefact("model", model.meta, arrays))
    signed_anew(trial.context, keys.model(0), other)
    trial.path(keys.update(1, "site-a")).unlink()
    trial.refused("round-001/train/site-a", "secure.again", "another contribution", "round 1")


def test_another_model_for_one_site(trial: Trial) -> None:
    """site-a was sent a model of its own: the others see it in its statement."""
    statements = {s: trial.path(keys.statement("round-001", s)).read_bytes() for s in SITES}
    home = SiteHome.find("site-a", trial.workspace)
    from folkmoot.secure.unmask import View, open_statement, statement

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


# ---- what a site or plan does not allow


def test_a_site_may_insist_on_masks(workspace_of: Callable[..., Path]) -> None:
    params = settings(aggregation={"protection": "none"})
    trial = Trial(params, workspace_of(params))
    home = SiteHome.find("site-a", trial.workspace)
    allowed = home.settings.permissions.model_copy(update={"insist_on_masks": True})
    changed = home.settings.model_copy(update={"permissions": allowed})
    save_settings(changed, home.root / "site.toml")
    trial.walk("prepare/", until="encode")
    trial.refused("prepare/encode/site-a", "privacy.not-permitted", "insist_on_masks")


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"kind": "trees"}},
        {"aggregation": {"protection": "masks", "threshold": 2}},
        {"aggregation": {"protection": "masks", "threshold": 6}},
        {"aggregation": {"protection": "masks", "colluding": 0.1}},
        {"aggregation": {"protection": "masks", "colluding": 0.3, "failing": 0.3}},
    ],
)
def test_plans_that_masks_cannot_serve(values: dict[str, Any]) -> None:
    merged = {**BASE, "aggregation": {"protection": "masks"}, **values}
    with pytest.raises(ConfigError):
        parse_params(merged)


def test_a_value_beyond_the_limit_of_rows_names_no_value(workspace_of: Callable[..., Path]) -> None:
    params = settings(aggregation={"rows_limit": 10})
    trial = Trial(params, workspace_of(params))
    trial.walk("prepare/", "setup/")
    trial.refused("round-000/statistics/site-a", "secure.range", "nothing was sent")
