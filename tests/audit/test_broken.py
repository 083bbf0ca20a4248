"""Mechanisms broken on purpose, each caught by the audit or by a check of the door."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import site_tasks.privatise as door
from folkmoot.errors import PrivacyError
from folkmoot.privacy.noise import Entropy, discrete_gaussian, discrete_laplace
from folkmoot.updates import LinearUpdate, Statistics
from pipelines.audit import canaries as audit
from pipelines.audit.bounds import from_gaussian, from_rates
from pipelines.audit.canaries import Scores, gradient_space, privacy_of
from pipelines.audit.report import of_scores

N = 24_000


def audited(rounds: int = 2, budget: float = 1.0, canaries: int = N, **more: Any) -> Scores:
    return gradient_space(
        budget, 1e-5, rounds=rounds, canaries=canaries, block=1024, sites=2, **more
    )


def proven(scores: Scores) -> float:
    return max(row["epsilon"] for row in of_scores(scores))


def noise(change: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "discrete_gaussian", change)


@pytest.mark.parametrize("budget", [1.0, 4.0])
def test_honest_noise_is_never_above_its_claim_and_nearly_reached(budget: float) -> None:
    scores = audited(budget=budget, canaries=150_000)
    assert scores.claimed == pytest.approx(budget, rel=1e-6)
    # At 99.99 %, so that this test fails for noise and not by chance.
    for row in of_scores(scores, confidence=0.9999):
        assert row["epsilon"] <= scores.claimed
    found = from_gaussian(scores.inside, scores.outside, 1e-5, confidence=0.9)
    assert found.epsilon >= 0.75 * scores.claimed


def test_noise_off(monkeypatch: pytest.MonkeyPatch) -> None:
    noise(lambda sigma, shape, entropy: np.zeros(shape, np.int64), monkeypatch)
    assert proven(audited()) > 5


def test_a_quarter_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise(lambda sigma, shape, entropy: discrete_gaussian(sigma / 4, shape, entropy), monkeypatch)
    scores = audited()
    assert proven(scores) > 3
    # Without any assumption on the noise as well.
    assert from_rates(scores.inside, scores.outside, 1e-5).epsilon > 1.2


def test_a_site_that_adds_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter(range(10**9))

    def lazy(sigma: float, shape: Any, entropy: Entropy) -> Any:
        drawn = discrete_gaussian(sigma, shape, entropy)
        return drawn * (next(turns) % 2)

    noise(lazy, monkeypatch)
    assert proven(audited()) > 1.0  # the claim


def test_clipping_at_twice_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    real = audit.gradient_sum
    monkeypatch.setattr(
        audit, "gradient_sum", lambda task, w, records, clip: real(task, w, records, 2 * clip)
    )
    assert proven(audited()) > 1.5


def test_noise_drawn_once_for_two_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def again(sigma: float, shape: Any, entropy: Entropy) -> Any:
        # Two sites, two rounds: the second round's noise is the first one's.
        if len(drawn) == 4:
            drawn.clear()
        drawn.append(discrete_gaussian(sigma, shape, entropy) if len(drawn) < 2 else drawn[-2])
        return drawn[-1]

    noise(again, monkeypatch)
    assert proven(audited()) > 5


def test_a_forgotten_scaling_query() -> None:
    """Exact column sums beside noised gradients: the audit sees them, the door refuses them."""
    assert proven(audited(beside=lambda rows: rows.sum(axis=0))) > 5
    for part in (Statistics({"sum": np.ones(3)}), LinearUpdate({"delta": np.ones(3)}, 1.0)):
        with pytest.raises(PrivacyError, match="nothing else"):
            door.privatise({"scaling": part}, privacy_of(1.0, 1e-5))


def test_site_clipping_is_audited_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole update at plus or minus the clip norm: replace-one."""
    from folkmoot.params import Privacy
    from folkmoot.privacy.accountant import epsilon

    privacy = Privacy(mechanism="gaussian", clip_norm=2.0, noise_multiplier=1.0)
    claimed, _ = epsilon([door.charge(privacy)["update"]], 1e-5)

    def scores(sign: float) -> Any:
        update = LinearUpdate({"delta": np.array([[sign * 5.0, 0.0]])}, 1.0)
        made = [door.privatise({"update": update}, privacy) for _ in range(8000)]
        return np.array([one.parts["update"].arrays["delta"][0, 0] for one in made])

    inside, outside = scores(1.0), scores(-1.0)
    found = from_gaussian(inside, outside, 1e-5, confidence=0.999).epsilon
    assert 0.75 * claimed < found <= claimed
    quiet = door.discrete_gaussian
    monkeypatch.setattr(door, "discrete_gaussian", lambda sigma, *more: quiet(sigma / 4, *more))
    assert from_gaussian(scores(1.0), scores(-1.0), 1e-5).epsilon > claimed


@pytest.mark.parametrize(("divide", "caught"), [(1, False), (4, True)])
def test_discrete_laplace_noise_is_audited(divide: int, caught: bool) -> None:
    """Sensitivity 1 at scale 1: pure epsilon 1."""
    n = 60_000
    inside = 1 + discrete_laplace(1.0 / divide, n)
    outside = discrete_laplace(1.0 / divide, n)
    found = from_rates(inside, outside, 1e-12, confidence=0.9999).epsilon
    assert (found > 1.0) is caught
    assert found > 0.9


def test_the_ledger_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("an audit opened a database")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    gradient_space(1.0, 1e-5, canaries=100, block=64, sites=2)
