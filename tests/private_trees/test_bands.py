"""The additive booster's bands against what repeated noise does to the whole iteration."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from folkmoot.privacy.training import schedule
from folkmoot.trees.additive import as_linear
from folkmoot.wire import Artefact
from pipelines.coordinator.aggregate import private_additive, private_rounds

from .conftest import contract_of, settings

ROUNDS = 8


def test_bands_follow_noise_that_is_forgotten_and_noise_that_adds_up() -> None:
    params = settings(
        f"model.trees={{strategy: private_additive, rounds: {ROUNDS}}}", "privacy.epsilon=50"
    )
    contract = contract_of("binary")
    planned = schedule(params, contract)
    inner: Any = SimpleNamespace(params=as_linear(params), contract=contract)
    # Three directions: rows say much, something, and (but for the ridge) nothing.
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    ridge, curvature = 50.0, np.array([2000.0, 60.0, 0.0])
    inverse = turn @ np.diag(1 / (curvature + ridge)) @ turn.T
    hessian = turn @ np.diag(curvature) @ turn.T
    deviation = private_rounds.deviation_of(planned, planned.of(ROUNDS), 3, inner)
    steps, finals = ROUNDS - 2, []
    averaged = int(private_rounds.AVERAGED * steps)
    length = min(1.0, private_rounds.WHOLE_STEPS / steps)
    for _ in range(3000):
        w, path = np.zeros(3), []
        for _ in range(steps):
            w = w - length * inverse @ (hessian @ w + deviation * rng.normal(size=3))
            path.append(w)
        finals.append(np.mean(path[-averaged:], axis=0))
    before = Artefact("model", {}, {"state.inverse": inverse})
    update: Any = SimpleNamespace(sites=("a", "b", "c"))
    found = private_additive._deviation(before, [update], inner, planned, ROUNDS, (2, 3))
    assert found.shape == (2, 3)
    assert np.allclose(found[0], np.std(finals, axis=0), rtol=0.08)
    nothing = replace(before, arrays={})
    assert not private_additive._deviation(nothing, [update], inner, planned, ROUNDS, (2, 3)).any()
