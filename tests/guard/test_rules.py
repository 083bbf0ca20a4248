"""Every rule of the guard: what it lets through, what it refuses, and that it is the rule who does."""

# ruff: noqa: E501
from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

import folkmoot
from folkmoot.told import told_line
from pipelines.guard import asgi
from pipelines.guard.checks import CHECKS
from pipelines.guard.routes import ROUTES

from .conftest import TI_A, TI_B, Door

JOB_A = "federated_linear/round-001.train-site-a-001/run-1/1/-1"
JOB_B = "federated_linear/round-001.train-site-b-001/run-1/1/-1"
XCOM_A = "/execution/xcoms/federated_linear/run-1/round-001.train-site-a-001/return_value"
XCOM_B = "/execution/xcoms/federated_linear/run-1/round-001.train-site-b-001/return_value"
RUN = "/exchange/v1/demo/runs/run-1"
_MAJOR, _MINOR, *_ = folkmoot.__version__.split(".")
NEIGHBOUR = f"{_MAJOR}.{int(_MINOR) + 1}.0"
STATE = {
    "state": "idle",
    "jobs_active": 0,
    "queues": ["site-site-a"],
    "sysinfo": {
        "airflow_version": "3.3.2",
        "folkmoot_version": "0.2.0",
        "concurrency": 1,
        "status": 20,
        "python_version": "3.11.7 (main)\n[GCC 12]",
    },
}
FETCH = {"queues": ["site-site-a"], "free_concurrency": 1, "supports_task_instance_uuid": True}
REF = {"key": "demo/runs/run-1/round-001/update-site-a", "digest": "0" * 64, "size": 3}
PART = {"upload-offset": "0", "upload-length": "3", "repr-digest": "sha-256=:AAAA:"}
NOW = datetime.now(UTC).isoformat()
TOLD = told_line("data.missing [site-a]: The site has no dataset. Remedy: Add one.")
HOST = {"state": "running", "hostname": "site-a", "unixname": "worker", "pid": 7}

#: What a worker and its tasks do: (method, path, site or task, further arguments).
ALLOWED: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/edge_worker/v1/worker/site-a", {"site": "site-a", "json": STATE}),
    ("PATCH", "/edge_worker/v1/worker/site-a.2", {"site": "site-a", "json": STATE}),
    ("PATCH", "/edge_worker/v1/worker/site-a", {"site": "site-a", "json": {**STATE, "maintenance_comments": "admin put node into maintenance\nComment: disk"}}),
    ("POST", "/edge_worker/v1/jobs/fetch/site-a", {"site": "site-a", "json": FETCH}),
    ("PATCH", f"/edge_worker/v1/jobs/state/{JOB_A}/success", {"site": "site-a", "json": {}}),
    ("PATCH", f"/edge_worker/v1/jobs/state/{JOB_A}/failed", {"site": "site-a", "json": {"task_instance_id": TI_A}}),
    ("GET", f"/edge_worker/v1/logs/logfile_path/{JOB_A}", {"site": "site-a"}),
    ("GET", f"/edge_worker/v1/logs/logfile_path/{JOB_A}", {"site": "site-a", "params": {"task_instance_id": TI_A}}),
    ("POST", f"/edge_worker/v1/logs/push/{JOB_A}", {"site": "site-a", "json": {"log_chunk_time": NOW, "log_chunk_data": TOLD, "task_instance_id": TI_A}}),
    ("PATCH", f"/execution/task-instances/{TI_A}/run", {"task": TI_A, "json": HOST}),
    ("PATCH", f"/execution/task-instances/{TI_A}/state", {"task": TI_A, "json": {"state": "success", "task_outlets": [], "outlet_events": []}}),
    ("PUT", f"/execution/task-instances/{TI_A}/heartbeat", {"task": TI_A, "json": {"hostname": "a", "pid": 7}}),
    ("PUT", f"/execution/task-instances/{TI_A}/rtif", {"task": TI_A, "json": {}}),
    ("POST", XCOM_A, {"task": TI_A, "json": [REF]}),
    ("POST", XCOM_A, {"task": TI_A, "json": {"site": "site-a", "dataset": "f" * 64}}),
    ("GET", XCOM_B, {"task": TI_A}),
    ("DELETE", XCOM_A, {"task": TI_A}),
    ("GET", "/execution/variables/site-site-a.mode", {"task": TI_A}),
    ("GET", f"{RUN}/run.json", {"site": "site-a"}),
    ("GET", f"{RUN}/round-001/model", {"site": "site-a", "headers": {"user-agent": f"folkmoot/{NEIGHBOUR}"}}),
    ("GET", f"{RUN}/secure/keys-site-b", {"site": "site-a"}),
    ("GET", f"{RUN}/secure/inbox-site-a", {"site": "site-a"}),
    ("GET", "/exchange/v1/demo/anchors/run-1/round-001", {"site": "site-a"}),
    ("PATCH", f"{RUN}/round-001/update-site-a", {"site": "site-a", "headers": PART, "content": b"abc"}),
    ("PATCH", "/exchange/v1/demo/anchors/run-1/heads/round-001/train/site-a", {"site": "site-a", "headers": PART, "content": b"abc"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "arguments"), ALLOWED)
def test_what_workers_do_comes_through(
    door: Door, method: str, path: str, arguments: dict[str, Any]
) -> None:
    answer = door.send(door.guard(), method, path, **arguments)
    assert answer.status_code == 200, answer.text
    (seen,) = door.through
    assert seen["path"] == path
    assert seen[asgi.SITE] == "site-a"
    if "json" in arguments:
        assert json.loads(seen["body"]) == arguments["json"]


#: One attack per line, and the rule that is alone in refusing it.
ATTACKS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("worker-name", "POST", "/edge_worker/v1/jobs/fetch/site-b", {"site": "site-a", "json": FETCH}),
    ("queue", "POST", "/edge_worker/v1/jobs/fetch/site-a", {"site": "site-a", "json": {**FETCH, "queues": ["site-site-b"]}}),
    ("queue", "POST", "/edge_worker/v1/jobs/fetch/site-a", {"site": "site-a", "json": {**FETCH, "queues": None}}),
    ("queue", "POST", "/edge_worker/v1/jobs/fetch/site-a", {"site": "site-a", "json": {**FETCH, "queues": ["site-site-a", "default"]}}),
    ("queue", "POST", "/edge_worker/v1/worker/site-a", {"site": "site-a", "json": {**STATE, "queues": []}}),
    ("queue", "POST", "/edge_worker/v1/jobs/fetch/site-a", {"site": "site-a", "json": []}),
    ("worker-facts", "PATCH", "/edge_worker/v1/worker/site-a", {"site": "site-a", "json": {**STATE, "sysinfo": {"status_text": "x" * 501}}}),
    ("worker-facts", "PATCH", "/edge_worker/v1/worker/site-a", {"site": "site-a", "json": {**STATE, "sysinfo": {"row": "Anna"}}}),
    ("worker-facts", "PATCH", "/edge_worker/v1/worker/site-a", {"site": "site-a", "json": {**STATE, "maintenance_comments": "a\x1b[2Jb"}}),
    ("job-holder", "PATCH", f"/edge_worker/v1/jobs/state/{JOB_B}/success", {"site": "site-a", "json": {}}),
    ("job-holder", "GET", f"/edge_worker/v1/logs/logfile_path/{JOB_B}", {"site": "site-a"}),
    ("job-holder", "PATCH", "/edge_worker/v1/jobs/state/federated_linear/waiting/run-1/1/-1/success", {"site": "site-a", "json": {}}),
    ("job-holder", "PATCH", "/edge_worker/v1/jobs/state/federated_linear/absent/run-1/1/-1/success", {"site": "site-a", "json": {}}),
    ("job-holder", "GET", f"/edge_worker/v1/logs/logfile_path/{JOB_A}?task_instance_id={TI_B}", {"site": "site-a"}),
    ("job-holder", "POST", f"/edge_worker/v1/logs/push/{JOB_A}", {"site": "site-a", "json": {"log_chunk_time": NOW, "log_chunk_data": TOLD, "task_instance_id": TI_B}}),
    ("job-state", "PATCH", f"/edge_worker/v1/jobs/state/{JOB_A}/removed", {"site": "site-a", "json": {}}),
    ("log-push", "POST", f"/edge_worker/v1/logs/push/{JOB_A}", {"site": "site-a", "json": {"log_chunk_time": NOW, "log_chunk_data": "Anna"}}),
    ("own-task", "PATCH", f"/execution/task-instances/{TI_B}/state", {"task": TI_A, "json": {"state": "success"}}),
    ("own-task", "PATCH", f"/execution/task-instances/{TI_B}/run", {"task": TI_A, "json": HOST}),
    ("task-host", "PATCH", f"/execution/task-instances/{TI_A}/run", {"task": TI_A, "json": {**HOST, "hostname": "a\n2026-01-01 [info] root logged in"}}),
    ("task-host", "PATCH", f"/execution/task-instances/{TI_A}/run", {"task": TI_A, "json": {**HOST, "unixname": "a" * 501}}),
    ("worker-facts", "PATCH", "/edge_worker/v1/worker/site-a", {"site": "site-a", "json": {**STATE, "sysinfo": {"status_text": "a\n2026-01-01 [info] forged"}}}),
    ("worker-facts", "PATCH", "/edge_worker/v1/worker/site-a", {"site": "site-a", "json": {**STATE, "sysinfo": {"python_version": "3.11\n[GCC]\nforged"}}}),
    ("task-outcome", "PATCH", f"/execution/task-instances/{TI_A}/state", {"task": TI_A, "json": {"state": "deferred", "classpath": "os.system"}}),
    ("task-outcome", "PATCH", f"/execution/task-instances/{TI_A}/state", {"task": TI_A, "json": {"state": "success", "task_outlets": [{"name": "demo/site-b"}]}}),
    ("task-outcome", "PATCH", f"/execution/task-instances/{TI_A}/state", {"task": TI_A, "json": {"state": "up_for_retry", "retry_reason": "Anna"}}),
    ("task-fields", "PUT", f"/execution/task-instances/{TI_A}/rtif", {"task": TI_A, "json": {"env": "secret"}}),
    ("xcom-read", "GET", "/execution/xcoms/federated_linear/run-0/open/return_value", {"task": TI_A}),
    ("xcom-write", "POST", XCOM_B, {"task": TI_A, "json": [REF]}),
    ("xcom-write", "DELETE", XCOM_B, {"task": TI_A}),
    ("xcom-write", "POST", XCOM_A.replace("return_value", "note"), {"task": TI_A, "json": [REF]}),
    ("xcom-content", "POST", XCOM_A, {"task": TI_A, "json": {"rows": [1, 2]}}),
    ("xcom-content", "POST", XCOM_A, {"task": TI_A, "json": [{**REF, "note": "Anna"}]}),
    ("xcom-content", "POST", XCOM_A, {"task": TI_A, "json": {"site": "site-b", "dataset": "f" * 64}}),
    ("prefix", "GET", "/execution/variables/site-site-b.mode", {"task": TI_A}),
    ("prefix", "GET", "/execution/connections/mlflow", {"task": TI_A}),
    ("exchange-write", "PATCH", f"{RUN}/round-001/update-site-b", {"site": "site-a", "headers": PART, "content": b"abc"}),
    ("exchange-write", "PATCH", f"{RUN}/round-001/model", {"site": "site-a", "headers": PART, "content": b"abc"}),
    ("exchange-write", "PATCH", f"{RUN}/run.json", {"site": "site-a", "headers": PART, "content": b"abc"}),
    ("exchange-write", "PATCH", "/exchange/v1/demo/anchors/run-1/heads/round-001/train/site-b", {"site": "site-a", "headers": PART, "content": b"abc"}),
    ("exchange-read", "GET", f"{RUN}/round-001/update-site-b", {"site": "site-a"}),
    ("exchange-read", "GET", f"{RUN}/secure/inbox-site-b", {"site": "site-a"}),
    ("exchange-read", "GET", f"{RUN}/final/evaluation-site-b", {"site": "site-a"}),
    ("exchange-read", "GET", "/exchange/v1/demo/anchors/run-1/heads/round-001/train/site-b", {"site": "site-a"}),
    ("version", "GET", f"{RUN}/run.json", {"site": "site-a", "headers": {"user-agent": "folkmoot/99.0.0"}}),
    ("version", "GET", "/exchange/hello", {"site": "site-a", "headers": {"user-agent": "folkmoot/99.0.0"}}),
    ("upload-frame", "PATCH", f"{RUN}/round-001/update-site-a", {"site": "site-a", "headers": {"upload-offset": "-1", "upload-length": "3"}, "content": b"abc"}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "method", "path", "arguments"), ATTACKS)
def test_an_attack_is_refused_by_its_rule_and_by_it_alone(
    door: Door, rule: str, method: str, path: str, arguments: dict[str, Any]
) -> None:
    answer = door.send(door.guard(), method, path, **arguments)
    assert not door.through
    if rule != "log-push":  # which is answered as if it had been done
        assert answer.json()["reason"] == rule
    without = [check for check in CHECKS if check.name != rule]
    door.send(door.guard(checks=without), method, path, **arguments)
    assert len(door.through) == 1, "the attack is refused without its rule as well"


def test_every_rule_has_an_attack_and_every_route_is_used() -> None:
    assert {check.name for check in CHECKS} == {rule for rule, *_ in ATTACKS}
    assert {name for check in CHECKS for name in check.routes} <= {r.name for r in ROUTES}


CLOSED = [
    ("GET", "/api/v2/variables"),
    ("POST", "/api/v2/dags/federated_linear/dagRuns"),
    ("GET", "/ui/config"),
    ("POST", "/auth/token"),
    ("GET", "/edge_worker/ui/worker"),
    ("PATCH", "/edge_worker/v1/worker/queues/site-a"),
    ("GET", "/edge_worker/v1/health"),
    ("GET", "/edge_worker/docs"),
    ("POST", "/execution/dag-runs/federated_linear/mine"),
    ("PUT", "/execution/variables/site-site-a.mode"),
    ("GET", "/execution/variables/keys"),
    ("GET", "/execution/task-instances/states"),
    ("PATCH", f"/execution/task-instances/{TI_A}/skip-downstream"),
    ("PATCH", f"/execution/task-instances/{TI_A}/rendered-map-index"),
    ("GET", "/execution/asset-events/by-asset"),
    ("POST", f"/execution/hitlDetails/{TI_A}"),
    ("PUT", f"/execution/store/ti/{TI_A}/x"),
    ("GET", "/execution/xcoms/federated_linear/run-1/open/return_value/slice"),
    ("GET", "/execution/connection-tests/1"),
    ("DELETE", f"{RUN}/run.json"),
    ("PUT", f"{RUN}/round-001/update-site-a"),
    ("GET", "/exchange/v1/run.json"),
    ("GET", "/"),
    ("GET", "/docs"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("who", ["site", "task"])
def test_whatever_is_not_on_the_list_is_closed(
    door: Door, method: str, path: str, who: str
) -> None:
    identity = {"site": "site-a"} if who == "site" else {"task": TI_A}
    answer = door.send(door.guard(), method, path, **identity)
    assert not door.through
    assert answer.status_code in {400, 401, 403}


@pytest.mark.parametrize(
    "path",
    [
        f"{RUN}/../run-2/run.json",
        f"{RUN}/round-001/..%2f..%2frun-2/run.json",
        f"{RUN}/%2e%2e/%2e%2e/secret",
        f"{RUN}//run.json",
        f"{RUN}/./run.json",
        "/exchange/v1/..%5c..%5csecret/a",
        f"{RUN}/run.json%00",
        f"{RUN}/run.json%0aINFO forged",
        "/edge_worker/v1/../../api/v2/variables",
        "/edge_worker/v1/%6aobs/fetch/site-a",
    ],
)
def test_a_path_has_one_spelling(door: Door, path: str) -> None:
    from urllib.parse import unquote

    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {door.token('site-a', 'GET', path)}".encode())],
    }
    assert _raw(door, scope)["status"] in {400, 403}
    assert not door.through


@pytest.mark.parametrize(
    "extra",
    [
        [(b"transfer-encoding", b"chunked")],
        [(b"content-encoding", b"gzip")],
        [(b"content-length", b"2"), (b"content-length", b"5")],
        [(b"content-length", b"+2")],
        [(b"authorization", b"Bearer other")],
        [(b"host", b"a"), (b"host", b"b")],
        [(b"x-a\r\nx-b", b"1")],
        [(b"user-agent", b"a\r\nx-forged: 1")],
        [(b"upgrade", b"websocket")],
    ],
)
def test_headers_that_could_mean_two_things_are_refused(
    door: Door, extra: list[tuple[bytes, bytes]]
) -> None:
    token = door.token("site-a", "GET", f"{RUN}/run.json")
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"{RUN}/run.json",
        "raw_path": f"{RUN}/run.json".encode(),
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {token}".encode()), *extra],
    }
    assert _raw(door, scope)["status"] == 400
    assert not door.through


def test_no_header_but_those_needed_reaches_airflow(door: Door) -> None:
    smuggled = {
        "x-forwarded-user": "admin",
        "x-http-method-override": "DELETE",
        "x-original-url": "/api/v2/variables",
        "cookie": "_token=admin",
        "remote-user": "admin",
    }
    path = "/edge_worker/v1/jobs/fetch/site-a"
    door.send(door.guard(), "POST", path, site="site-a", json=FETCH, headers=smuggled)
    (seen,) = door.through
    assert not set(smuggled) & set(seen["headers"])
    assert seen["headers"]["authorization"] == "stamp-site-a"


def test_a_query_says_what_is_allowed_and_once(door: Door) -> None:
    for query in ("include_prior_dates=true", "map_index=1&map_index=2", "%6dap=1", "a"):
        answer = door.send(door.guard(), "GET", f"{XCOM_A}?{query}", task=TI_A)
        assert answer.json()["reason"] == "query"
    assert not door.through


def test_bodies_are_bounded_and_mean_one_thing(door: Door) -> None:
    path = "/edge_worker/v1/jobs/fetch/site-a"
    for content, reason in (
        (b"{" + b" " * 5000 + b"}", "size"),
        (b"[" * 3000, "body"),
        (b'{"queues": ["site-site-a"], "queues": ["site-site-b"]}', "body"),
        (b'{"free_concurrency": NaN}', "body"),
        (b"\xff\xfe", "body"),
    ):
        answer = door.send(door.guard(), "POST", path, site="site-a", content=content)
        assert answer.json()["reason"] == reason
    headers = {**PART, "upload-length": str(1 << 40)}
    key = f"{RUN}/round-001/update-site-a"
    answer = door.send(door.guard(), "PATCH", key, site="site-a", headers=headers, content=b"abc")
    assert answer.json()["reason"] == "size"
    assert not door.through


def test_a_body_that_lies_about_its_length_is_cut(door: Door) -> None:
    path = "/edge_worker/v1/jobs/fetch/site-a"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            (b"authorization", f"Bearer {door.token('site-a', 'POST', path)}".encode()),
            (b"content-length", b"2"),
        ],
    }
    assert _raw(door, scope, [b"{" + b" " * 3000] * 5)["status"] == 413
    assert not door.through


def _raw(door: Door, scope: dict[str, Any], parts: list[bytes] | None = None) -> dict[str, Any]:
    """A request that no client would send."""
    import asyncio

    sent: list[dict[str, Any]] = []
    waiting = list(parts or [b""])

    async def receive() -> dict[str, Any]:
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    asyncio.run(door.guard()(scope, receive, send))
    return sent[0]
