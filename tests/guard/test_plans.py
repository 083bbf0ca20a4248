"""The guard's list of keys against the plans themselves: what a plan asks of a site comes through."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from folkmoot.params import parse_params
from folkmoot.plan import COORDINATOR
from pipelines.guard import checks
from pipelines.guard.request import Refusal, Request
from pipelines.guard.sites import Member
from pipelines.hosts.walk import contract_for
from pipelines.plans import plan_of

from .conftest import KnownJobs

SITES = ["site-a", "site-b", "site-c", "b"]
PLANS: dict[str, dict[str, Any]] = {
    "linear": {},
    "masked": {"aggregation": {"protection": "masks"}},
    "encrypted": {"aggregation": {"protection": "ckks"}},
    "agreed": {
        "data": {"recipe": "synthetic", "rows": 1200},
        "anonymisation": {"recoding": "agreed", "k": 5},
        "aggregation": {"protection": "masks"},
    },
    "trees": {"model": {"kind": "trees", "trees": {"rounds": 2}}},
    "live": {
        "model": {"kind": "trees", "trees": {"strategy": "xgboost_federated", "rounds": 2}},
    },
    # More than a thousand rounds.
    "histograms": {
        "federation": {"sites": ["site-a", "b"]},
        "model": {"kind": "trees", "trees": {"strategy": "summed_histograms", "rounds": 200}},
    },
    "sums": {
        "statistics": {"active": True, "ask": ["moments", "quantiles"]},
        "aggregation": {"protection": "masks", "rows_limit": 10_000},
    },
}


def asked(rule: checks.Rule, key: str, site: str) -> Refusal | None:
    request = Request("GET", "", {}, {}, "", {"key": key}, site, Member("0" * 64), KnownJobs())
    return asyncio.run(rule(request))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PLANS)
def test_what_a_plan_asks_of_a_site_comes_through_and_of_no_other(name: str) -> None:
    params = parse_params({"federation": {"sites": SITES}, **PLANS[name]})
    sites = set(params.federation.members)
    found = 0
    for step in plan_of(params, contract_for(params)):
        if step.place == COORDINATOR:
            continue
        for key in step.outputs:
            whole = f"demo/runs/run-1/{key}"
            assert asked(checks.exchange_write, whole, step.place) is None, key
            assert asked(checks.exchange_read, whole, step.place) is None, key
            for other in sites - {step.place}:
                assert asked(checks.exchange_write, whole, other), (key, other)
                if not key.startswith("secure/keys-"):
                    assert asked(checks.exchange_read, whole, other), (key, other)
            found += 1
        for key in step.inputs:
            assert asked(checks.exchange_read, f"demo/runs/run-1/{key}", step.place) is None, key
    assert found > len(sites)


def test_anchors_are_read_from_the_opening_on() -> None:
    from folkmoot.privacy.ledger.anchor import anchors_key, head_key

    for round in (0, 1, 12):
        assert asked(checks.exchange_read, anchors_key("demo", "run-1", round), "b") is None
    own = head_key("demo", "run-1", "round-001/train/b")
    assert asked(checks.exchange_write, own, "b") is None
    assert asked(checks.exchange_write, own, "site-b")


def test_letters_between_sites_are_read_by_all_and_written_by_their_site() -> None:
    for key in ("round-001/letters-b", "round-001/survivors.json.signature"):
        assert asked(checks.exchange_read, f"demo/runs/run-1/{key}", "site-a") is None, key
    letter = "demo/runs/run-1/round-001/letters-b"
    assert asked(checks.exchange_write, letter, "b") is None
    assert asked(checks.exchange_write, letter, "site-a") is not None
