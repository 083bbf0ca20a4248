"""The exchange app's description, fuzzed for a moment; ``benchmarks/fuzz_exchange.py`` takes minutes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

fuzzer = pytest.importorskip("benchmarks.fuzz_exchange", reason="needs schemathesis")


def test_no_request_breaks_the_exchange_or_makes_it_tell(tmp_path: Path) -> None:
    found = fuzzer.Found()
    with fuzzer.bench(tmp_path) as ready:
        ready.fuzz(found, number=1, examples=2)
    assert not found.faults
    for visitor in fuzzer.VISITORS:
        assert {status for who, status in found.statuses if who == visitor} & {200, 201, 204, 409}
    assert found.requests > 40


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"Internal Server Error"),
        (418, b'{"reason": "teapot"}'),
        (400, b'{"reason": "request", "input": "Anna"}'),
        (400, b'{"reason": "Traceback (most recent call last)"}'),
        (400, b'{"reason": "FOLDER/exchange"}'),
        (400, b"no json"),
        (200, fuzzer.CANARY.encode()),
    ],
    ids=["fault", "undescribed", "input", "traceback", "folder", "no-json", "canary"],
)
def test_the_fuzzer_sees_what_it_looks_for(tmp_path: Path, status: int, body: bytes) -> None:
    ready = fuzzer.Bench({}, {}, None, tmp_path)
    raw = {"responses": {"200": {}, "400": {}}}
    case: Any = SimpleNamespace(
        method="GET",
        operation=SimpleNamespace(path="/v1/x", definition=SimpleNamespace(raw=raw)),
    )
    content = body.replace(b"FOLDER", str(tmp_path).encode())
    assert ready.faults(SimpleNamespace(status_code=status, content=content), case)
    fine = SimpleNamespace(status_code=400, content=b'{"reason": "request"}')
    assert not ready.faults(fine, case)
