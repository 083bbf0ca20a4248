"""The noise that a federation's decoded sum really holds, with all-zero inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from folkmoot.params import parse_params
from folkmoot.privacy.training import schedule
from pipelines.hosts.walk import contract_for
from site_tasks.privatise import ClippedSum, privatise

PLAN = {
    "data": {"recipe": "breast_cancer", "scaling": "bounds", "holdout": {"by": "content"}},
    "federation": {"sites": ["a", "b", "c", "d"]},
    "aggregation": {"weighting": "uniform"},
    "model": {"linear": {"strategy": "private"}},
    "privacy": {
        "mechanism": "gaussian",
        "clipping": "record",
        "noise": "distributed",
        "simulate_sums": True,
        "dropouts": 1,
        "epsilon": 3.0,
        "rows": 426,
    },
}


@pytest.mark.parametrize("survivors", [4, 3])
def test_sums_hold_the_noise_that_was_charged(survivors: int) -> None:
    from scipy import stats

    params = parse_params(PLAN)
    planned = schedule(params, contract_for(params))
    release = planned.releases[-1]
    zeros = np.zeros(40, np.int64)
    found = np.zeros((800, 40))
    for run in found:
        for _ in range(survivors):
            part = ClippedSum(zeros, release, planned.share)
            made = privatise({"update": part}, params.privacy)
            run += made.parts["update"].arrays["sum"] * 2.0**-release.exponent
    claimed = release.noise_multiplier * release.sensitivity
    # Three sites are the worst case that was planned for: exactly the noise of the event.
    claimed *= math.sqrt(survivors / 3)
    assert found.std() == pytest.approx(claimed, rel=0.02)
    assert stats.kstest(found.ravel() / claimed, "norm").pvalue > 1e-5
