"""What the guard counts, who reads it, and that strangers leave no labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from folkmoot.errors import ConfigError
from pipelines.guard.metrics import Metered, Metrics, operator_token, serve

from .conftest import Door, KnownJobs

HELLO = "/exchange/hello"


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return Metrics(tmp_path / "refusals.json")


def metered(door: Door, metrics: Metrics) -> Metered:
    return Metered(
        door.app, metrics=metrics, sites=door.sites, jobs=KnownJobs(), stamp=lambda site: "stamp"
    )


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_answers_and_bytes_are_counted_by_member(door: Door, metrics: Metrics) -> None:
    guard = metered(door, metrics)
    assert door.send(guard, "GET", HELLO, site="site-a").status_code == 200
    path = "/exchange/v1/demo/runs/r/round-001/update-site-a"
    head = {"upload-offset": "0", "upload-length": "5", "upload-digest": "0" * 64}
    door.send(guard, "PATCH", path, site="site-a", content=b"12345", headers=head)
    requests = "folkmoot_guard_requests_total"
    assert value(metrics, requests, site="site-a", route="hello", outcome="ok") == 1
    assert value(metrics, "folkmoot_guard_bytes_total", site="site-a", direction="in") >= 0
    assert value(metrics, "folkmoot_guard_bytes_total", site="site-a", direction="out") >= len(
        '"through"'
    )
    assert value(metrics, "folkmoot_guard_seconds_count", route="hello") == 1
    assert value(metrics, "folkmoot_guard_last_seen_seconds", site="site-a") > 1.7e9
    # Refused: of a member by its name, of a stranger by none, whatever it claims or asks for.
    door.send(guard, "GET", HELLO, token=door.token("site-a", "GET", "/exchange/health"))
    door.send(guard, "GET", HELLO, token=door.token("stranger", "GET", HELLO))
    for number in range(5):
        door.send(guard, "GET", f"/made/up/{number}")
    labels = {
        tuple(sorted(sample.labels.items()))
        for family in metrics.registry.collect()
        for sample in family.samples
    }
    assert {dict(pairs).get("site", "") for pairs in labels} == {"", "site-a"}
    assert value(metrics, requests, site="", route="", outcome="closed") == 5
    assert value(metrics, requests, site="", route="hello", outcome="unknown-site") == 1
    metrics.write()
    kept = json.loads((door.sites.path.parent / "refusals.json").read_text())
    assert {(e["site"], e["reason"]): e["count"] for e in kept}["", "closed"] == 5


def test_the_operator_reads_it_and_sites_do_not(
    door: Door, metrics: Metrics, tmp_path: Path
) -> None:
    guard = metered(door, metrics)
    for path in ("/metrics", "/exchange/metrics", "/edge_worker/v1/metrics"):
        assert door.send(guard, "GET", path, site="site-a").status_code == 403
    with pytest.raises(ConfigError, match="open to all"):
        serve(metrics, "0.0.0.0", 0, None)
    token = operator_token(tmp_path)
    assert operator_token(tmp_path) == token
    assert (tmp_path / "metrics.token").stat().st_mode & 0o077 == 0
    from pipelines.hosts.airflow_services import free_port

    for needed in (token, None):
        port = free_port(0)
        stop = serve(metrics, "127.0.0.1", port, needed)
        try:
            url = f"http://127.0.0.1:{port}/metrics"
            good = httpx.get(url, headers={"authorization": f"Bearer {token}"})
            assert good.status_code == 200
            assert "folkmoot_guard_requests_total" in good.text
            for header in ({}, {"authorization": "Bearer wrong"}):
                assert httpx.get(url, headers=header).status_code == (401 if needed else 200)
            with pytest.raises(ConfigError, match="port is taken"):
                serve(metrics, "127.0.0.1", port, needed)
        finally:
            stop()


def test_dashboard_and_alerts_ask_for_what_is_counted(metrics: Metrics) -> None:
    metrics.observe("site-a", "hello", "ok", 0.001)
    metrics.passed("site-a", "in", 1)
    families = list(metrics.registry.collect())
    known = {sample.name: set(sample.labels) for f in families for sample in f.samples}
    deploy = Path(__file__).resolve().parents[2] / "deploy"
    board: dict[str, Any] = json.loads((deploy / "grafana" / "folkmoot.json").read_text())
    asked = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    rules = yaml.safe_load((deploy / "prometheus" / "rules.yml").read_text())
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(asked) > 8
    for expression in asked:
        for name, chosen in re.findall(r"(folkmoot_\w+)(?:\{([^}]*)\})?", expression):
            assert name in known, expression
            labels = set(re.findall(r"(\w+)[!=]?=", chosen)) - {"ok"}
            assert labels <= known[name], expression
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
