"""What a hostile site hides in paths, headers, bodies and logs, at a real API server."""

from __future__ import annotations

import gzip
import json
import socket
import ssl

import pytest

from folkmoot.identity import public_text
from folkmoot.identity.tokens import site_token
from pipelines.guard.sites import Member

from .hostile import DAG, FETCH, MINE, RUN, WORKER, Hostile

pytestmark = pytest.mark.slow


def _raw(hostile: Hostile, request: bytes) -> bytes:
    """Bytes as no client would send them; returns all answers."""
    settings = hostile.airflow.settings
    context = ssl.create_default_context(cadata=hostile.airflow.authority)
    with (
        socket.create_connection((settings.host, settings.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=settings.host) as line,
    ):
        line.sendall(request)
        line.settimeout(3)
        found = b""
        try:
            while part := line.recv(65536):
                found += part
        except TimeoutError:
            pass
        return found


def test_paths_headers_and_logs_cannot_be_smuggled(hostile: Hostile) -> None:
    key = hostile.keys["site-a"]
    path = "/edge_worker/v1/jobs/fetch/site-a"
    body = json.dumps(FETCH).encode()

    def head(extra: str, method: str = "POST", target: str = path) -> bytes:
        token = site_token("site-a", key, method, target)
        lines = (
            f"{method} {target} HTTP/1.1",
            "Host: c",
            f"Authorization: Bearer {token}",
            f"Connection: close\r\n{extra}",
        )
        return "".join(f"{line}\r\n" for line in lines).encode()

    inner = b"GET /api/v2/variables HTTP/1.1\r\nHost: c\r\n\r\n"
    for request in (
        head(f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n")
        + b"0\r\n\r\n"
        + inner,
        head("Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        head("Content-Length: 2\r\nContent-Length: 60\r\n") + b"{}" + inner,
        head("Content-Length : 2\r\n") + b"{}",
        head("X-A: b\r\n c: d\r\nContent-Length: 2\r\n") + b"{}",
        head("Content-Length: 2\r\n", target="/exchange/v1/demo/runs/../../../etc/passwd"),
        head("", "GET", "/exchange/v1/demo/runs/..%2f..%2fcoordinator/signing.key"),
        head("", "GET", "/exchange/v1/demo/runs/%2e%2e/%2e%2e/coordinator/signing.key"),
        head("", "GET", "/execution/variables/site-site-a.x%0aFORGED%20LINE"),
        head("", "GET", "https://elsewhere/api/v2/variables"),
    ):
        answer = _raw(hostile, request)
        statuses = [
            line.split()[1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1")
        ]
        assert statuses, request
        assert set(statuses) <= {b"400", b"401", b"403"}, (request, answer)
    logs = hostile.airflow.logs / "sites-api-server.log"
    lines = logs.read_text(errors="replace").splitlines()
    assert not any(line.startswith("FORGED LINE") for line in lines)


def test_oversized_and_packed_bodies(hostile: Hostile) -> None:
    path = "/edge_worker/v1/worker/site-a"
    assert hostile.ask("POST", path, content=b" " * 200_000).status_code == 413
    bomb = gzip.compress(b" " * 50_000_000)
    packed = hostile.ask("POST", path, content=bomb, headers={"content-encoding": "gzip"})
    assert packed.status_code == 400
    key = "/exchange/v1/demo/runs/x/round-001/update-site-a"
    headers = {
        "upload-offset": "0",
        "upload-length": str(1 << 50),
        "repr-digest": "sha-256=:AAAA:",
    }
    assert hostile.ask("PATCH", key, content=b"x", headers=headers).status_code == 413


def test_log_text_is_dropped_and_a_shut_out_site_stays_out(hostile: Hostile) -> None:
    push = f"/edge_worker/v1/logs/push/{DAG}/{MINE}/{RUN}/1/-1"
    body = {"log_chunk_time": "2026-01-01T00:00:00Z", "log_chunk_data": "Anna Canary\n"}
    assert hostile.ask("POST", push, json=body).status_code == 200
    home = hostile.airflow.home
    assert not any(b"Anna Canary" in path.read_bytes() for path in home.rglob("*.log"))
    assert hostile.rows("select * from edge_logs") == []
    beat = ("PATCH", "/edge_worker/v1/worker/site-a")
    assert hostile.ask(*beat, json={**WORKER, "state": "idle"}).status_code == 200
    hostile.airflow.sites.remove("site-a")
    try:
        gone = hostile.ask(*beat, json={**WORKER, "state": "idle"})
    finally:
        hostile.airflow.sites.add("site-a", Member(public_text(hostile.keys["site-a"])))
    assert (gone.status_code, gone.json()["reason"]) == (401, "unknown-site")
