"""Noise ``distributed`` under masks: no site's sum is private alone, the opened sum is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from folkmoot.errors import ConfigError
from folkmoot.params import Params, parse_params
from folkmoot.wire import decode
from site_tasks.permissions import fewest_contributors


def settings(*overrides: str) -> Params:
    return parse_params(
        {
            "federation": {"sites": ["site-a", "site-b", "site-c"]},
            "data": {
                "recipe": "synthetic",
                "rows": 4000,
                "columns": 3,
                "scaling": "bounds",
                "holdout": {"by": "content"},
            },
            "model": {"linear": {"strategy": "private", "rounds": 4}},
            "privacy": {
                "mechanism": "gaussian",
                "clipping": "record",
                "noise": "distributed",
                "epsilon": 8.0,
                "rows": 3000,
            },
            "aggregation": {
                "weighting": "uniform",
                "evaluate_every": 0,
                "protection": "masks",
            },
            "tracking": {"enabled": False},
        },
        overrides,
    )


def test_a_masked_run_is_private_and_its_model_finite(workspace_of: Callable[..., Path]) -> None:
    from pipelines.hosts.embedded import run

    params = settings()
    workspace = workspace_of(params)
    result = run(params, run="r", workspace=workspace)
    assert result["private"]
    assert {site["private"] for site in result["privacy"].values()} == {True}
    root = workspace / "exchange" / "demo" / "runs" / "r"
    model = decode((root / result["model"]).read_bytes(), kind="model")
    assert model.meta["method"] == "newton"
    assert np.abs(model.arrays["coef"]).max() > 0


def test_a_site_opens_no_sum_with_less_noise_than_planned() -> None:
    permissions = SimpleNamespace(minimum_contributors=2)
    home: Any = SimpleNamespace(settings=SimpleNamespace(permissions=permissions))

    def least(*overrides: str) -> int:
        context: Any = SimpleNamespace(params=settings(*overrides))
        return fewest_contributors(context, home)

    assert least() == 3
    assert least("privacy.dropouts=1") == 2
    assert least("privacy.noise=site") == 2
    assert least("federation.quorum=2") == 2


def test_shares_without_masks_need_a_simulation() -> None:
    with pytest.raises(ConfigError, match="secure sums"):
        settings("aggregation.protection=none")
    with pytest.raises(ConfigError, match="no meaning"):
        settings("privacy.simulate_sums=true")
