"""The audit of a plan: every attack's lower bound on epsilon beside what the plan claims."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError
from folkmoot.params import Params, parse_params
from folkmoot.privacy.events import EXACT
from pipelines.audit.bounds import Bound, from_gaussian, from_one_run, from_rates
from pipelines.audit.canaries import Scores, gradient_space
from pipelines.audit.membership import attack, private_linear

__all__ = ["ONE_RUN", "audit", "of_scores", "pooled_rows"]

#: Canaries of a one-run audit (Steinke, Nasr & Jagielski 2023).
ONE_RUN = 1000
Floats = NDArray[np.float64]


def audit(
    params: Params,
    *,
    canaries: int = 200_000,
    shadows: int = 0,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Attack what a plan claims, on simulated sites; O(canaries · rounds + shadows · rows).

    Parameters
    ----------
    params : Params
        Its ``privacy.epsilon`` and ``delta`` are the claim, ``model.linear.rounds`` the releases.
    canaries : int
        In gradient space.
    shadows : int
        Models of the membership inference on the plan's own data; 0 leaves it out.
    say : callable, optional
        Told what is being done.

    Returns
    -------
    dict
        ``claimed``, ``delta``, ``rounds``; ``attacks``, a list of ``attack``, ``epsilon`` (lower
        bound, 95 %), ``method``, ``detail``; ``refuted``: whether one of them passes the claim.

    Raises
    ------
    ConfigError
        ``config.invalid`` for a plan without an epsilon, and for shadows where the task is not
        binary.
    """
    privacy = params.privacy
    if privacy.epsilon is None or privacy.mechanism in EXACT:
        raise ConfigError(
            "config.invalid",
            "The plan claims no epsilon: there is nothing to audit.",
            "Set privacy.mechanism to gaussian and privacy.epsilon, as in `--set privacy.epsilon=1`.",
        )
    tell = say or (lambda _: None)
    rounds = params.model.linear.rounds
    tell(f"gradient space: {canaries:,} canaries in {rounds} rounds")
    scores = gradient_space(privacy.epsilon, privacy.delta, rounds=rounds, canaries=canaries)
    attacks = of_scores(scores)
    if shadows:
        x, y = pooled_rows(params)
        trainer = private_linear(privacy.epsilon, privacy.delta, rounds=rounds)
        tell(f"membership inference: {shadows} models on halves of {len(y):,} rows")
        found = attack(trainer.train, x, y, privacy.delta, models=shadows)
        row = _row("membership inference on final models (LiRA)", found.bound)
        attacks.append({**row, "auc": found.auc, "tpr_at_0.1%_fpr": found.tpr})
    return {
        "claimed": scores.claimed,
        "delta": privacy.delta,
        "rounds": rounds,
        "attacks": attacks,
        "refuted": any(found["epsilon"] > scores.claimed for found in attacks),
    }


def of_scores(scores: Scores, confidence: float = 0.95) -> list[dict[str, Any]]:
    """The three bounds that canaries give, one row each; each holds with ``confidence``."""
    inside, outside, delta = scores.inside, scores.outside, scores.delta
    half = ONE_RUN // 2
    return [
        _row(
            "canaries in gradient space, no assumption",
            from_rates(inside, outside, delta, confidence),
        ),
        _row(
            "canaries in gradient space, Gaussian noise",
            from_gaussian(inside, outside, delta, confidence),
        ),
        _row(
            f"one run, {ONE_RUN} canaries",
            from_one_run(inside[:half], outside[:half], delta, confidence),
        ),
    ]


def pooled_rows(params: Params) -> tuple[Floats, Floats]:
    """Training rows of the plan's simulated sites, encoded and scaled by public bounds.

    The sites are made in a temporary folder from ``data.recipe`` and forgotten.
    """
    from pipelines.hosts.embedded import run
    from pipelines.hosts.execute import open_context, store_of
    from site_tasks.home import SiteHome
    from site_tasks.prepared import load_prepared

    plan = parse_params(
        {
            "data": {**params.data.model_dump(mode="json"), "scaling": "bounds"},
            "federation": {"sites": list(params.federation.members)},
            "model": {"linear": {"strategy": "fedavg", "rounds": 1}},
            "tracking": {"enabled": False},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        result = run(plan, workspace=workspace)
        store = store_of(plan, workspace)
        context = open_context(result["run"], result["federation"], store, workspace)
        if context.contract.task != "binary":
            raise ConfigError(
                "config.invalid",
                "Membership inference is for data with two classes.",
                "Leave --shadows out, or choose another data.recipe.",
            )
        sites = [
            load_prepared(context, SiteHome.find(site, workspace))
            for site in plan.federation.members
        ]
        lower, upper = sites[0].features.lower, sites[0].features.upper
        x = np.concatenate([np.array(site.matrix("train"), np.float64) for site in sites])
        y = np.concatenate([np.array(site.labels("train"), np.float64) for site in sites])
    middle, spread = (lower + upper) / 2, np.maximum(upper - lower, 1e-12) / 2
    return np.nan_to_num((x - middle) / spread), y


def _row(name: str, bound: Bound) -> dict[str, Any]:
    return {"attack": name, **bound.to_dict()}
