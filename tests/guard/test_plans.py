"""The guard lets a site do what any plan asks of it, and nothing in the place of another site."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from folkmoot.params import parse_params
from folkmoot.plan import COORDINATOR
from pipelines.guard.checks import exchange_read, exchange_write
from pipelines.plans import plan_of
from pipelines.recipes import contract_of

SITES = ["site-a", "site-b", "a", "site-a-b"]
PLANS: dict[str, dict[str, Any]] = {
    "linear": {},
    "agreed, masked": {
        "data": {"recipe": "synthetic", "rows": 1200},
        "anonymisation": {"recoding": "agreed", "k": 5},
        "aggregation": {"protection": "masks"},
    },
    "encrypted": {"aggregation": {"protection": "ckks"}},
    "statistics": {
        "statistics": {"active": True, "ask": ["moments", "quantiles"]},
        "aggregation": {"protection": "masks", "rows_limit": 10_000},
    },
    "bagged trees": {"model": {"kind": "trees"}},
    "summed histograms": {
        "model": {"kind": "trees", "trees": {"strategy": "summed_histograms", "rounds": 200}},
    },
}


@pytest.mark.parametrize("name", PLANS)
def test_a_site_may_do_what_its_plan_asks(name: str) -> None:
    params = parse_params({"federation": {"sites": SITES}, **PLANS[name]})
    plan = plan_of(params, contract_of(params.data))
    asked = 0
    for step in plan:
        if step.place == COORDINATOR:
            continue
        for rule, names in ((exchange_write, step.outputs), (exchange_read, step.inputs)):
            for key in names:
                asked += 1
                assert refused(rule, key, step.place) is None, (step.name, key)
        for key in step.outputs:
            for other in set(SITES) - {step.place}:
                assert refused(exchange_write, key, other) is not None, (other, key)
    assert asked > len(SITES)


def refused(rule: Any, key: str, site: str) -> Any:
    request = SimpleNamespace(params={"key": f"demo/runs/run-1/{key}"}, site=site)
    return asyncio.run(rule(request))
