"""The likelihood ratio attack: blind to private models, sharp on models that memorise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from folkmoot.cli.app import app
from folkmoot.errors import ConfigError, PrivacyError
from folkmoot.params import parse_params
from pipelines.audit.membership import attack, private_linear
from pipelines.audit.report import audit

PLAN = {
    "privacy": {
        "mechanism": "gaussian",
        "clipping": "record",
        "noise": "distributed",
        "simulate_sums": True,
        "epsilon": 1.0,
        "rows": 426,
        "evaluation": "none",
    },
    "data": {"recipe": "breast_cancer", "scaling": "bounds"},
    "aggregation": {"weighting": "uniform"},
    "model": {"linear": {"strategy": "private", "rounds": 4}},
}


def rows(n: int = 1200, d: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    y = (x[:, 0] + rng.normal(size=n) > 0).astype(np.float64)
    return x, y


def test_private_models_tell_nothing_that_their_claim_forbids() -> None:
    x, y = rows()
    trainer = private_linear(1.0, 1e-5, rounds=6)
    assert trainer.claimed == pytest.approx(1.0, rel=1e-6)
    found = attack(trainer.train, x, y, 1e-5, models=16)
    assert 0.47 < found.auc < 0.53
    assert found.tpr < 0.01
    assert found.bound.epsilon <= 1.0


def test_models_that_memorise_are_seen() -> None:
    x, y = rows()

    def nearest(seen: np.ndarray, labels: np.ndarray, everything: np.ndarray) -> np.ndarray:
        distance = ((everything[:, None, :1] - seen[None, :, :1]) ** 2).sum(axis=2)
        return np.where(labels[distance.argmin(axis=1)] == 1, 0.9, 0.1)

    found = attack(nearest, x, y, 1e-5, models=16)
    assert found.auc > 0.6
    assert found.bound.epsilon > 0.2


def test_the_private_trainer_learns() -> None:
    from sklearn.metrics import roc_auc_score

    x, y = rows(6000)
    p = private_linear(4.0, 1e-5, rounds=6).train(x, y, x)
    assert roc_auc_score(y, p) > 0.75


def test_the_command_reports_a_plan() -> None:
    settings = [f"--set={key}" for key in flat(PLAN)]
    done = CliRunner().invoke(app, ["audit", *settings, "--canaries=4000", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["claimed"] == pytest.approx(1.0, rel=1e-6)
    assert not found["refuted"]
    assert {row["method"] for row in found["attacks"]} == {"rates", "gaussian", "one-run"}


def test_the_command_refutes_broken_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    import site_tasks.privatise as door

    monkeypatch.setattr(
        door, "discrete_gaussian", lambda sigma, shape, entropy: np.zeros(shape, np.int64)
    )
    settings = [f"--set={key}" for key in flat(PLAN)]
    done = CliRunner().invoke(app, ["audit", *settings, "--canaries=4000"])
    assert isinstance(done.exception, PrivacyError)


def test_membership_on_the_plans_own_data() -> None:
    found = audit(parse_params(PLAN), canaries=2000, shadows=6)
    row = found["attacks"][-1]
    assert "LiRA" in row["attack"]
    assert 0.4 < row["auc"] < 0.6
    assert not found["refuted"]


def test_a_plan_without_a_claim_is_refused() -> None:
    with pytest.raises(ConfigError, match="no epsilon"):
        audit(parse_params({}))


def flat(values: dict, start: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += flat(value, f"{start}{key}.")
        else:
            found.append(f"{start}{key}={json.dumps(value)}")
    return found
