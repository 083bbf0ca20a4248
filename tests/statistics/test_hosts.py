"""Runs of statistics on DVC: the same figures, and nothing runs again where nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from folkmoot.params import Params


@pytest.mark.slow
def test_dvc_agrees_with_the_embedded_host(
    asking: Callable[..., Params], workspace_of: Callable[..., Path]
) -> None:
    from pipelines.hosts.dvc import run as reproduce
    from pipelines.hosts.embedded import run

    params = asking(["moments", "quantiles", "classes"], exchanges=1)
    one, other = workspace_of(params, "one"), workspace_of(params, "other")
    first = run(params, run="s", workspace=one)
    second = reproduce(params, run="s", workspace=other)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    report = other / "pipelines" / "demo-s" / "report" / "metrics.json"
    assert json.loads(report.read_text())["statistics"] == first["statistics"]
