"""What a site's terms refuse: plans that would not fit, ceilings of every kind, pinned settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import PrivacyError
from folkmoot.privacy.accountant import epsilon
from folkmoot.privacy.events import Gaussian, Laplace
from folkmoot.privacy.ledger import Ceiling, Ledger, Subject, Terms
from site_tasks.home import SiteHome
from site_tasks.release import open_ledger
from site_tasks.settings import Ceilings, save_settings

from .conftest import GAUSSIAN, Site

DAY = 86_400.0
RECEIPT: dict[str, Any] = {"mechanism": "gaussian", "unaccounted": {}}


def subject(number: int, **changes: Any) -> Subject:
    values: dict[str, Any] = {
        "release_id": f"{number:064x}",
        "federation": "demo",
        "run": "r",
        "round": number,
        "step": f"round-{number:03d}/train/site-a",
        "dataset": "f" * 64,
    }
    return Subject(**{**values, **changes})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", "site-a", Ed25519PrivateKey.generate())


def spend(ledger: Ledger, number: int, per: str, most: float, **changes: Any) -> None:
    ceiling = Ceiling(most, 1e-5, per, 30)  # type: ignore[arg-type]
    ledger.reserve(subject(number, **changes), [Gaussian(4.0)], terms=Terms((ceiling,)))


ONE, TWO = (epsilon({Gaussian(4.0): n}, 1e-5)[0] for n in (1, 2))
OTHER: dict[str, dict[str, Any]] = {
    "lineage": {"lineage": "new-people"},
    "federation": {"federation": "trial"},
    "requester": {"requester": "team-b"},
}


@pytest.mark.parametrize("per", sorted(OTHER))
def test_a_ceiling_counts_what_it_is_over_and_nothing_else(ledger: Ledger, per: str) -> None:
    spend(ledger, 1, per, ONE * 1.01)
    spend(ledger, 2, per, ONE * 1.01, **OTHER[per])
    for number, changes in ((3, {}), (4, OTHER[per])):
        with pytest.raises(PrivacyError) as caught:
            spend(ledger, number, per, ONE * 1.01, **changes)
        assert caught.value.code == "privacy.ceiling"
        assert f"{ONE:.4g} is spent" in caught.value.message
    assert ledger.verify() == 3


def test_a_period_forgets_and_a_lineage_does_not(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1.9e9
    monkeypatch.setattr("folkmoot.privacy.ledger.clock.time.time", lambda: now)
    spend(ledger, 1, "period", ONE * 1.01)
    now += 29 * DAY
    with pytest.raises(PrivacyError, match="within 30 days"):
        spend(ledger, 2, "period", ONE * 1.01)
    now += DAY
    spend(ledger, 3, "period", ONE * 1.01)
    with pytest.raises(PrivacyError):
        spend(ledger, 4, "lineage", TWO * 1.01)


def test_totals_of_many_events_are_those_of_all_entries(ledger: Ledger) -> None:
    """Gaussians of any noise multiplier fold into one; others are counted as they are."""
    charges = [Gaussian(3.0), Gaussian(4.5, 2.0), Gaussian(3.0), Laplace(20.0), Laplace(20.0)]
    for number, event in enumerate(charges):
        ledger.reserve(subject(number), [event, Gaussian(7.0)])
    both = [e for event in charges for e in (event, Gaussian(7.0))]
    assert ledger.spent(1e-6)[0] == pytest.approx(epsilon(both, 1e-6)[0], rel=1e-3)
    gaussians = {e for e in ledger.lineages()["main"] if isinstance(e, Gaussian)}
    assert len(gaussians) == 1
    assert ledger.lineages()["main"][Laplace(20.0)] == 2


def test_a_plan_that_would_not_fit_is_refused_before_its_first_release(ledger: Ledger) -> None:
    limits = (Ceiling(epsilon({Gaussian(4.0): 5}, 1e-5)[0] * 1.001, 1e-5),)
    fits, asks = (Terms(limits, {Gaussian(4.0): n}) for n in (5, 6))
    with pytest.raises(PrivacyError, match=r"plan of run r \(6 charged releases\)") as caught:
        ledger.admit(subject(0), asks)
    assert caught.value.code == "privacy.ceiling"
    with pytest.raises(PrivacyError):  # nor by its first release without a cost
        ledger.commit(subject(0), "d" * 64, receipt=RECEIPT, terms=asks)
    assert ledger.verify() == 1
    ledger.admit(subject(0), fits)
    for number in range(5):
        ledger.reserve(subject(number), [Gaussian(4.0)], terms=fits)
        ledger.admit(subject(number), fits)  # its own charges do not count against it
    with pytest.raises(PrivacyError, match="plan of run r"):
        ledger.admit(subject(5), asks)  # prolonged by one round
    with pytest.raises(PrivacyError, match="plan of run s"):
        ledger.admit(subject(5, run="s"), Terms(limits, {Gaussian(4.0): 1}))


def test_a_release_door_refuses_the_plan_before_anything_is_computed(site: Site) -> None:
    one, _ = epsilon([Gaussian(2.0, 2.0)], 1e-5)
    site.permit(epsilon_ceiling=one * 1.01)
    with pytest.raises(PrivacyError, match="plan of run r"):
        site.release(site.context(*GAUSSIAN, "model.linear.rounds=2"))
    assert site.made == 0
    assert [entry.kind for entry in open_ledger(site.home).entries()] == ["open"]


def test_forecast_says_how_many_such_runs_are_left(site: Site) -> None:
    from tests.privacy.test_cli import invoke

    run = [*GAUSSIAN, "model.linear.rounds=1"]
    total = epsilon({Gaussian(2.0, 2.0): 3}, 1e-5)[0]
    site.permit(epsilon_ceiling=total * 1.001)
    options = [word for setting in run for word in ("--set", setting)]

    def left() -> int:
        found = json.loads(invoke(site, "forecast", "site-a", "--json", *options))
        assert found["ceilings"][0]["fits"] == (found["ceilings"][0]["runs_left"] > 0)
        return int(found["ceilings"][0]["runs_left"])

    assert left() == 3
    for name, expected in (("r1", 2), ("r2", 1), ("r3", 0)):
        site.release(site.context(*run, run=name))
        assert left() == expected
    with pytest.raises(PrivacyError, match="plan of run r4"):
        site.release(site.context(*run, run="r4"))
    assert "no" in invoke(site, "forecast", "site-a", *options)


def test_ceilings_of_site_toml_reach_the_ledger(site: Site) -> None:
    one, _ = epsilon([Gaussian(2.0, 2.0)], 1e-5)
    for ceilings in (
        Ceilings(federation=one / 2),
        Ceilings(requester=one / 2),
        Ceilings(period=one / 2, days=7),
        Ceilings(federation=100.0, federations={"demo": one / 2}),
        Ceilings(requesters={"coordinator": one / 2}),
    ):
        path = site.home.root / "site.toml"
        save_settings(site.home.settings.model_copy(update={"ceilings": ceilings}), path)
        site.home = SiteHome(site.home.root)
        with pytest.raises(PrivacyError) as caught:
            site.release(site.context(*GAUSSIAN, "model.linear.rounds=1"))
        assert caught.value.code == "privacy.ceiling"
        with pytest.raises(PrivacyError) as caught:
            site.release(site.context())  # nothing bounds epsilon without noise
        assert caught.value.code == "privacy.not-permitted"
    assert site.made == 0


@pytest.mark.parametrize(
    ("pins", "overrides", "holds"),
    [
        ({"data.holdout.fraction": 0.3}, ("data.holdout.fraction=0.3",), True),
        ({"data.holdout.fraction": 0.3}, ("data.holdout.fraction=0.2",), False),
        ({"model.linear.rounds": 1}, ("model.linear.rounds=2",), False),
        ({"model.linear.strategy": "newton"}, ("model.linear.strategy=newton",), True),
        ({"model.linear.strategi": "newton"}, (), False),
        ({"model.linear": "newton"}, (), False),
        ({"federation.sites": ["site-a", "site-b", "site-c", "site-d"]}, (), True),
    ],
)
def test_a_site_may_pin_settings(
    site: Site, pins: dict[str, Any], overrides: tuple[str, ...], holds: bool
) -> None:
    settings = site.home.settings.model_copy(update={"pins": pins})
    save_settings(settings, site.home.root / "site.toml")
    site.home = SiteHome(site.home.root)
    assert site.home.settings.pins == pins
    if holds:
        site.release(site.context(*overrides))
        return
    with pytest.raises(PrivacyError, match=next(iter(pins))) as caught:
        site.release(site.context(*overrides))
    assert caught.value.code == "privacy.not-permitted"


def test_a_site_may_keep_its_evaluation_counts(site: Site) -> None:
    site.permit(evaluation=False)
    with pytest.raises(PrivacyError, match=r"permissions\.evaluation"):
        site.release(site.context())
    context = site.context("privacy.evaluation=none")
    with pytest.raises(PrivacyError, match=r"permissions\.evaluation"):
        # a body that would let them out all the same
        site.release(context, make=lambda: site.make(exact=True))
    update = site.make()["update"]
    site.release(context, make=lambda: {"update": update})
    assert set(site.opened(context).parts) == {"update"}


def test_a_run_of_another_coordinator_may_be_refused(site: Site) -> None:
    site.permit(coordinator="0" * 64)
    with pytest.raises(PrivacyError, match=r"permissions\.coordinator"):
        site.release(site.context())


@pytest.mark.parametrize(
    ("rows", "mechanism", "holds"),
    [(99, "gaussian", True), (101, "gaussian", False), (101, "none", True)],
)
def test_delta_above_one_over_the_rows_is_refused(
    site: Site, tmp_path: Path, rows: int, mechanism: str, holds: bool
) -> None:
    """A mechanism that gives one row in a hundred away whole would keep delta 0.01."""
    from folkmoot.features import feature_space
    from site_tasks.prepared import Prepared, enough_rows

    site.permit(delta=0.01)
    overrides = (*GAUSSIAN, "privacy.delta=0.01") if mechanism == "gaussian" else ()
    context = site.context(*overrides)
    space = feature_space(context.contract, context.params.anonymisation, "linear")
    prepared = Prepared(space, {"train": rows, "test": 9}, "f", "d", 1, tmp_path)
    if holds:
        enough_rows(prepared, site.home, context.params)
        return
    with pytest.raises(PrivacyError, match="giving some of them away") as caught:
        enough_rows(prepared, site.home, context.params)
    assert "101" not in str(caught.value)
