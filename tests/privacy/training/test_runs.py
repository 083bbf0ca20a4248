"""Private training through the federation: what leaves, what it costs, what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import PrivacyError, RoundError
from folkmoot.params import Params, Privacy, parse_params
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.training import schedule
from folkmoot.updates import LinearUpdate, Statistics
from folkmoot.wire import decode, digest
from site_tasks.privatise import ClippedSum, privatise


def settings(*overrides: str) -> Params:
    return parse_params(
        {
            "federation": {"sites": ["site-a", "site-b"]},
            "data": {
                "recipe": "synthetic",
                "rows": 4000,
                "columns": 3,
                "scaling": "bounds",
                "holdout": {"by": "content"},
            },
            "model": {"linear": {"strategy": "private", "rounds": 5}},
            "privacy": {
                "mechanism": "gaussian",
                "clipping": "record",
                "epsilon": 8.0,
                "rows": 3000,
                "evaluation": "noised",
            },
            "aggregation": {"weighting": "uniform", "evaluate_every": 0},
            "tracking": {"enabled": False},
        },
        overrides,
    )


def published(workspace: Path, run: str = "r") -> dict[str, bytes]:
    root = workspace / "exchange" / "demo" / "runs" / run
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def train(params: Params, workspace: Path, run: str = "r") -> dict[str, Any]:
    from pipelines.hosts.embedded import run as embedded

    return embedded(params, run=run, workspace=workspace)


@pytest.mark.parametrize("basis", ["linear", "additive"])
def test_a_run_spends_its_budget_and_predicts_from_contract_columns(
    basis: str, workspace_of: Callable[..., Path]
) -> None:
    from folkmoot.identity import Roster
    from folkmoot.models.predictor import Predictor
    from folkmoot.updates import open_released
    from pipelines.recipes import load

    params = settings(f"model.linear.basis={basis}")
    workspace = workspace_of(params)
    result = train(params, workspace)
    assert result["private"]
    assert result["rounds"] == 5
    assert result["stop"] is None
    for site in result["privacy"].values():
        assert 7.99 < site["epsilon"] <= 8.0  # with the noised evaluation
        assert site["private"]
        assert {e["relation"] for e in site["events"]} == {"add-or-remove"}
    files = published(workspace)
    roster = Roster.load(workspace / "roster.toml")
    for round in range(1, 6):
        name = f"round-00{round}/update-site-a"
        update = open_released(files[name], roster, {"site": "site-a"})
        assert update.parts.keys() == {"update"}
        assert update.parts["update"].arrays.keys() == {"sum"}
        assert update.parts["update"].arrays["sum"].dtype == np.int64
        assert not update.receipt["unaccounted"]
    held = open_released(files["final/evaluation-site-a"], roster, {"site": "site-a"})
    assert held.parts["evaluation"].arrays.keys() == {"counts"}
    frame, contract = load("synthetic", params.data)
    model = decode(files[result["model"]], kind="model")
    assert ("design.edge" in model.arrays) == (basis == "additive")
    assert "state.inverse" not in model.arrays
    found = Predictor(model, contract, params.anonymisation).predict(frame)
    right = (found["prediction"] == frame["outcome"]).mean()
    assert right > 0.75  # 0.83 without privacy
    assert abs(result["metrics"]["overall"]["accuracy"] - right) < 0.1
    assert result["metrics"]["overall"]["noised"] == 1.0


def test_every_receipt_and_ledger_adds_up_to_the_plan(workspace_of: Callable[..., Path]) -> None:
    from folkmoot.privacy.ledger import Ledger
    from site_tasks.home import SiteHome

    params = settings("privacy.epsilon=5")
    workspace = workspace_of(params)
    train(params, workspace)
    home = SiteHome.find("site-a", workspace)
    ledger = Ledger(home.ledger_path, "site-a")
    events = [
        event
        for entry in ledger.entries()
        if entry.kind == "reserve"
        for event in entry.content["charge"]
    ]
    assert len(events) == 6  # five rounds and the evaluation
    assert 4.99 < epsilon(events, params.privacy.delta)[0] <= 5.0


def test_seeded_runs_agree_and_others_do_not(workspace_of: Callable[..., Path]) -> None:
    seeded = settings("privacy.seeded=true")
    one, other = (workspace_of(seeded, name) for name in ("one", "other"))
    found = []
    for workspace in (one, other):
        train(seeded, workspace)
        files = published(workspace)
        found.append({name: digest(data) for name, data in files.items() if "model" in name})
    assert found[0] == found[1]
    fresh = settings()
    models = []
    for run in ("a", "b"):
        train(fresh, one, run)
        models.append(digest(published(one, run)["round-005/model"]))
    assert models[0] != models[1]


def test_few_rows_are_trained_by_gradients_and_end_with_the_schedule(
    workspace_of: Callable[..., Path],
) -> None:
    params = settings(
        "privacy.rows=300",
        "privacy.evaluation=none",
        "privacy.epsilon=2",
        "model.linear.rounds=7",
    )
    workspace = workspace_of(params)
    result = train(params, workspace)
    assert result["stop"] == "schedule"
    assert result["rounds"] == 5 < params.model.linear.rounds
    assert result["metrics"] == {}
    model = decode(published(workspace)[result["model"]], kind="model")
    assert model.meta["method"] == "gradient"
    assert "rows" in model.meta["why"]


def test_an_adaptive_clip_follows_the_quantile(workspace_of: Callable[..., Path]) -> None:
    from folkmoot.models.design import Design
    from folkmoot.models.linear import parameters
    from folkmoot.privacy.linear_schedule import COUNTED, row_norm
    from pipelines.hosts.execute import open_context, store_of
    from site_tasks.home import SiteHome
    from site_tasks.prepared import load_prepared
    from site_tasks.private.records import Records, gradient_sum

    params = settings(
        "privacy.adaptive_clip=0.5",
        "privacy.evaluation=none",
        "model.linear.rounds=30",
        "privacy.epsilon=20",
        "privacy.method=newton",
    )
    workspace = workspace_of(params)
    result = train(params, workspace)
    assert max(site["epsilon"] for site in result["privacy"].values()) <= 20
    files = published(workspace)
    model = decode(files["round-029/model"], kind="model")
    clip, counts, rows = float(model.arrays["state.clip"]), 0, 0
    context = open_context("r", "demo", store_of(params, workspace), workspace)
    for site in ("site-a", "site-b"):
        prepared = load_prepared(context, SiteHome.find(site, workspace))
        records = Records(
            prepared.matrix("train"),
            prepared.labels("train"),
            Design.of(model.arrays),
            row_norm("newton", params, context.contract),
        )
        one = gradient_sum("binary", parameters(model), records, 1e9, COUNTED)[-1]
        found = gradient_sum("binary", parameters(model), records, clip, COUNTED)[-1]
        counts, rows = counts + int(found), rows + int(one)
    assert counts / rows == pytest.approx(0.5, abs=0.1)
    planned = schedule(params, context.contract).of(3).clip
    assert clip < 0.9 * planned  # it had some way to go
    final = decode(files["round-030/model"], kind="model")
    assert not [name for name in final.arrays if name.startswith("state.")]


def test_a_site_that_sends_another_sum_is_named(workspace_of: Callable[..., Path]) -> None:
    """The coordinator holds shapes and receipts against the schedule."""
    from folkmoot.errors import ProtocolError
    from folkmoot.updates import RELEASED_DOOR, ReleasedUpdate
    from pipelines.coordinator.aggregate.private_rounds import total_of

    params = settings()
    release = schedule(params, _contract(params)).of(2)
    for arrays in (
        {"sum": np.zeros(4)},
        {"sum": np.zeros(3, np.int64)},
        {"sum": np.zeros(4, np.int64), "more": np.zeros(1)},
        {},
    ):
        update = ReleasedUpdate(
            RELEASED_DOOR, {"site": "site-b"}, {"update": LinearUpdate(arrays, 1.0)}, ""
        )
        with pytest.raises(ProtocolError) as caught:
            total_of([update], release, 4, None, 2)  # type: ignore[arg-type]
        assert caught.value.site == "site-b"


def _contract(params: Params) -> Any:
    from pipelines.recipes import contract_of

    return contract_of(params.data)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_noise_has_the_planned_deviation(share: float) -> None:
    params = settings(*(["privacy.noise=distributed", "privacy.simulate_sums=true"] * (share < 1)))
    release = schedule(params, _contract(params)).of(3)
    zeros = np.zeros(40_000, np.int64)
    made = privatise({"update": ClippedSum(zeros, release, share)}, params.privacy)
    noise = made.parts["update"].arrays["sum"]
    assert noise.std() == pytest.approx(release.deviation * share, rel=0.02)
    assert abs(noise.mean()) < release.deviation * share / 50
    assert made.events["update"] == release.event.to_dict()


def test_nothing_but_clipped_sums_passes() -> None:
    params = settings()
    privacy, release = params.privacy, schedule(params, _contract(params)).of(3)
    values = np.zeros(3, np.int64)
    for part in (
        Statistics({"rows": np.array(7)}),
        LinearUpdate({"delta": np.zeros((1, 3))}, 1.0),
        ClippedSum(values, release, 0.5),  # a share, where every site adds all of the noise
        ClippedSum(values, release, 0.0),
        ClippedSum(values.astype(np.float64), release, 1.0),  # type: ignore[arg-type]
    ):
        with pytest.raises(PrivacyError):
            privatise({"update": part}, privacy)
    with pytest.raises(PrivacyError, match="clipping record"):
        privatise(
            {"update": ClippedSum(values, release, 1.0)},
            Privacy(mechanism="gaussian", noise_multiplier=1.0),
        )


def test_weights_and_unforeseen_preparation_are_refused() -> None:
    from site_tasks.private.train import _accounted

    release = schedule(settings(), _contract(settings())).of(1)
    home: Any = SimpleNamespace(name="site-a")

    def prepared(stability: int, weights: Any) -> Any:
        return SimpleNamespace(stability=stability, weights=lambda part: weights)

    _accounted(prepared(1, None), release, home)
    for found in (prepared(2, None), prepared(1, np.ones(3))):
        with pytest.raises(PrivacyError):
            _accounted(found, release, home)


def test_a_ceiling_below_the_plan_stops_it_before_the_first_round(
    workspace_of: Callable[..., Path],
) -> None:
    from site_tasks.home import SiteHome
    from site_tasks.settings import save_settings

    params = settings()
    workspace = workspace_of(params)
    home = SiteHome.find("site-b", workspace)
    permissions = home.settings.permissions.model_copy(update={"epsilon_ceiling": 4.0})
    changed = home.settings.model_copy(update={"permissions": permissions})
    save_settings(changed, home.root / "site.toml")
    with pytest.raises((PrivacyError, RoundError)):
        train(params, workspace)
    assert not any("update" in name for name in published(workspace))


def test_central_noise_is_drawn_once_and_needs_trust(workspace_of: Callable[..., Path]) -> None:
    from pipelines.coordinator.central_noise import central_noise
    from pipelines.hosts.execute import open_context, store_of
    from site_tasks.home import SiteHome
    from site_tasks.private.train import _trusted

    params = settings("privacy.noise=coordinator", "privacy.evaluation=none")
    workspace = workspace_of(params)
    result = train(params, workspace)
    assert not result["private"]  # the coordinator saw exact sums
    assert {site["private"] for site in result["privacy"].values()} == {False}
    context = open_context("r", "demo", store_of(params, workspace), workspace)
    release = schedule(params, context.contract).of(4)
    zeros = np.zeros(20_000, np.int64)
    again = [central_noise(context, 4, release, zeros) for _ in range(2)]
    assert (again[0] == again[1]).all()
    assert again[0].std() == pytest.approx(release.deviation, rel=0.03)
    assert (central_noise(context, 4, release, zeros + 1) != again[0]).any()
    kept = list((workspace / "coordinator" / "demo" / "noise" / "r").iterdir())
    assert len(kept) == 7
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    home = SiteHome.find("site-a", workspace)
    real: Any = SimpleNamespace(
        name="site-a", settings=home.settings.model_copy(update={"simulated": False})
    )
    with pytest.raises(PrivacyError, match="central_noise"):
        _trusted(context, real)
    sums = settings("privacy.noise=distributed", "privacy.simulate_sums=true")
    with pytest.raises(PrivacyError, match="no simulation"):
        _trusted(replace(context, params=sums), real)
    _trusted(replace(context, params=settings()), real)


def test_exact_numbers_cannot_follow_a_wrong_design() -> None:
    from folkmoot.models.design import Design

    mean, scale = np.zeros(2), np.ones(2)
    good = Design(mean, scale, -scale, scale, np.array([1]), np.array([0.5]))
    assert good.fits(2)
    assert good.width == 3
    for other in (
        Design(mean, scale * 0),
        Design(mean, scale, -scale),
        Design(mean, scale, scale, -scale),
        Design(mean, scale, -scale, scale, np.array([2]), np.array([0.5])),
        Design(mean, scale, -scale, scale, np.array([1, 0]), np.array([0.5, 0.5])),
        Design(mean, scale, -scale, scale, np.array([1, 1]), np.array([0.5, 0.5])),
        Design(mean, scale, -scale, scale, np.array([1.0]), np.array([0.5])),  # type: ignore[arg-type]
        Design(mean[:1], scale),
    ):
        assert not other.fits(2)
