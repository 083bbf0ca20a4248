"""Federated Newton against scikit-learn on the pooled rows, with the same penalty.

Four sites train through the embedded host; then their prepared rows, which are all on this machine
here, are pooled, standardised and given to scikit-learn, whose solver runs to its own precision.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import row
from folkmoot.params import Params, parse_params
from folkmoot.plan import RunContext
from folkmoot.wire import Artefact, decode

L2 = 1.0
CASES = {
    "breast_cancer": "LogisticRegression",
    "diabetes": "Ridge",
}


def main() -> None:
    for recipe, name in CASES.items():
        params = parse_params(
            {
                "data": {"recipe": recipe},
                "model": {"linear": {"strategy": "newton", "l2": L2, "rounds": 30}},
                "tracking": {"enabled": False},
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            model, rounds, context = federated(params, Path(folder))
            x, y = pooled_rows(context)
        began = time.perf_counter()
        reference = pooled(x, y)
        seconds = time.perf_counter() - began
        coef, intercept = model.arrays["coef"], model.arrays["intercept"]
        worst = max(
            np.abs(coef - np.atleast_2d(reference.coef_)).max(),
            np.abs(intercept - reference.intercept_).max(),
        )
        size = np.abs(np.atleast_2d(reference.coef_)).max()
        sys.stdout.write(
            f"{recipe}: {len(y)} rows, {coef.shape[1]} features, {rounds} rounds; largest "
            f"coefficient {size:.3g}; pooled fit {1000 * seconds:.0f} ms\n"
        )
        row(
            f"Newton, {recipe}, 4 sites: largest difference to pooled {name} (l2 = {L2:g})",
            f"{worst:.1e} in {rounds} rounds",
            "≤ 1e-6",
            met=bool(worst <= 1e-6),
        )


def federated(params: Params, workspace: Path) -> tuple[Artefact, int, RunContext]:
    """Global model, rounds that ran, context of the run."""
    from pipelines.hosts.embedded import run
    from pipelines.hosts.execute import open_context, store_of

    result = run(params, workspace=workspace)
    context = open_context(
        result["run"], result["federation"], store_of(params, workspace), workspace
    )
    data = context.store.get(context.key(result["model"]), result["model_digest"])
    return decode(data, kind="model"), int(result["rounds"]), context


def pooled_rows(context: RunContext) -> tuple[Any, Any]:
    """Training rows of all sites."""
    from site_tasks.home import SiteHome
    from site_tasks.prepared import load_prepared

    sites = [
        load_prepared(context, SiteHome.find(site, context.workspace))
        for site in context.params.federation.members
    ]
    return (
        np.concatenate([np.array(p.matrix("train")) for p in sites]),
        np.concatenate([np.array(p.labels("train")) for p in sites]),
    )


def pooled(x: Any, y: Any) -> Any:
    """Scikit-learn on standardised pooled rows."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    estimator: Any = Ridge(alpha=L2)
    if y.dtype.kind == "i":
        estimator = LogisticRegression(C=1 / L2, solver="newton-cholesky", tol=1e-12, max_iter=500)
    return estimator.fit(StandardScaler().fit_transform(x), y)


if __name__ == "__main__":
    main()
