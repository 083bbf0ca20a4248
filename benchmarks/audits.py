"""Audits: what attacks prove of a claim, beside the claim; and mechanisms broken on purpose."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

import site_tasks.privatise as door
from benchmarks.report import row
from folkmoot.params import parse_params
from folkmoot.privacy.noise import discrete_gaussian
from pipelines.audit import canaries as audit
from pipelines.audit.bounds import from_gaussian, from_one_run, from_rates
from pipelines.audit.canaries import gradient_space
from pipelines.audit.membership import Attack, attack, private_linear
from pipelines.audit.report import ONE_RUN, of_scores, pooled_rows
from site_tasks.private.records import gradient_sum

DELTA, SHADOWS = 1e-5, 48
#: Rows of Adult that membership inference draws; each model trains on a random half of them.
ROWS = 22_792
#: Trees of the control without privacy, and what they must show for the attack to count.
TREES, CONTROL_AUC, CONTROL_TPR = 1000, 0.64, 0.02


def main() -> None:
    for claim, many in ((1.0, 6_000_000), (4.0, 10_000_000)):
        in_gradient_space(claim, many)
    broken()
    membership()


def in_gradient_space(claim: float, many: int) -> None:
    """One release at the whole budget, so that as many canaries as possible fit into the time."""
    scores = gradient_space(claim, DELTA, rounds=1, canaries=many, block=1024)
    rates = from_rates(scores.inside, scores.outside, DELTA).epsilon
    gaussian = from_gaussian(scores.inside, scores.outside, DELTA).epsilon
    for name, found in (("no assumption", rates), ("Gaussian noise", gaussian)):
        row(
            f"gradient-space canaries ({many:.0e}, {name}), claim {claim:g}: empirical epsilon",
            f"{found:.3f}",
            f"{0.75 * claim:g} to {claim:g}",
            met=0.75 * claim <= found <= claim,
        )
    rounds = gradient_space(claim, DELTA, rounds=12, canaries=100_000, block=1024)
    found = from_gaussian(rounds.inside, rounds.outside, DELTA).epsilon
    row(
        f"gradient-space canaries (1e5, Gaussian noise), claim {claim:g} over 12 rounds",
        f"{found:.3f}",
        f"{0.75 * claim:g} to {claim:g}",
        met=0.75 * claim <= found <= claim,
    )
    half = ONE_RUN // 2
    one = from_one_run(rounds.inside[:half], rounds.outside[:half], DELTA).epsilon
    row(
        f"one run of 12 rounds, m = {ONE_RUN}, claim {claim:g}: empirical epsilon",
        f"{one:.3f}",
        f"≤ {claim:g}",
        met=one <= claim,
    )


def broken() -> None:
    """Each must be proven to spend more than the 1 it claims."""
    breaks: dict[str, Any] = {
        "noise off": swapped(door, "discrete_gaussian", lambda s, n, e: np.zeros(n, np.int64)),
        "noise / 4": swapped(
            door, "discrete_gaussian", lambda s, n, e: discrete_gaussian(s / 4, n, e)
        ),
        "clip norm doubled": swapped(
            audit, "gradient_sum", lambda t, w, r, clip: gradient_sum(t, w, r, 2 * clip)
        ),
        "noise drawn once for two releases": swapped(door, "discrete_gaussian", repeated()),
    }
    for name, context in breaks.items():
        with context:
            told(name, gradient_space(1.0, DELTA, canaries=50_000, block=1024))
    leak = gradient_space(
        1.0, DELTA, canaries=50_000, block=1024, beside=lambda rows: rows.sum(axis=0)
    )
    told("a scaling query forgotten", leak)


def told(name: str, scores: audit.Scores) -> None:
    free, gaussian = (one["epsilon"] for one in of_scores(scores)[:2])
    row(
        f"broken on purpose, {name}: empirical epsilon against a claim of 1",
        f"{gaussian:.2f} (without assumption {free:.2f})",
        "> 1",
        met=bool(max(free, gaussian) > 1),
    )


@contextmanager
def swapped(module: Any, name: str, change: Any) -> Iterator[None]:
    with mock.patch.object(module, name, change):
        yield


def repeated(sites: int = 4) -> Any:
    """Noise of the first of two rounds, again in the second."""
    drawn: list[Any] = []

    def draw(sigma: float, shape: Any, entropy: Any) -> Any:
        if len(drawn) == 2 * sites:
            drawn.clear()
        fresh = len(drawn) < sites
        drawn.append(discrete_gaussian(sigma, shape, entropy) if fresh else drawn[-sites])
        return drawn[-1]

    return draw


def membership() -> None:
    x, y = pooled_rows(parse_params({"data": {"recipe": "adult"}}))
    drawn = np.random.default_rng().permutation(len(y))[:ROWS]
    x, y = x[drawn], y[drawn]
    sys.stdout.write(f"Adult: {x.shape[0]} rows, {x.shape[1]} features, {SHADOWS} models\n")
    for claim in (1.0, 4.0):
        trainer = private_linear(claim, DELTA)
        found = attack(trainer.train, x, y, DELTA, models=SHADOWS)
        strict = claim <= 1
        name = f"LiRA, {SHADOWS} models, Adult, private logistic regression, epsilon {claim:g}"
        row(
            f"{name}: AUC",
            f"{found.auc:.4f}",
            "≤ 0.51" if strict else "",
            met=auc_met(found, strict),
        )
        row(
            f"{name}: TPR at 0.1 % FPR",
            f"{100 * found.tpr:.3f} %",
            "≤ 0.2 %" if strict else "",
            met=bool(found.tpr <= 0.002) if strict else None,
        )
        row(
            f"{name}: empirical epsilon",
            f"{found.bound.epsilon:.3f}",
            f"≤ {claim:g}",
            met=found.bound.epsilon <= claim,
        )
    found = attack(boosted, x, y, DELTA, models=SHADOWS)
    row(
        f"the same attack on XGBoost without privacy, {TREES} trees of depth 6, {SHADOWS} models: "
        "AUC, TPR at 0.1 % FPR",
        f"{found.auc:.3f}, {100 * found.tpr:.2f} %",
        f"≥ {CONTROL_AUC:g}, {100 * CONTROL_TPR:g} % (the attack has teeth)",
        met=found.auc >= CONTROL_AUC and found.tpr >= CONTROL_TPR,
    )


def auc_met(found: Attack, strict: bool) -> bool | None:
    return bool(found.auc <= 0.51) if strict else None


def boosted(seen: Any, labels: Any, everything: Any) -> Any:
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=TREES, max_depth=6, learning_rate=0.3, n_jobs=1)
    return model.fit(seen, labels).predict_proba(everything)[:, 1].astype(np.float64)


if __name__ == "__main__":
    main()
