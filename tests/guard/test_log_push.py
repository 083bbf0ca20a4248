"""What of a task's log the guard lets through: all of it where both sides say so, else one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from folkmoot.told import told_line
from pipelines.guard.sites import Member

from .conftest import Door

JOB_A = "federated_linear/round-001.train-site-a-001/run-1/1/-1"
NOW = datetime.now(UTC).isoformat()
TOLD = told_line("data.missing [site-a]: The site has no dataset. Remedy: Add one.")


def test_logs_come_through_where_the_site_lets_them(door: Door) -> None:
    known = door.sites.members["site-a"]
    door.sites.add("site-a", Member(known.key, logs=True))
    path = f"/edge_worker/v1/logs/push/{JOB_A}"
    guard = door.guard()
    body = {"log_chunk_time": NOW, "log_chunk_data": "done\n"}
    answer = door.send(guard, "POST", path, site="site-a", json=body)
    assert answer.text == '"through"'
    told = {**body, "log_chunk_data": TOLD}  # which is in the log already
    assert door.send(guard, "POST", path, site="site-a", json=told).text == "null"
    wrong = {**body, "log_chunk_data": "a\x1b[2J"}
    answer = door.send(guard, "POST", path, site="site-a", json=wrong)
    assert answer.json()["reason"] == "log-push"


def test_why_a_task_failed_is_told_and_nothing_else(door: Door) -> None:
    guard, path = door.guard(), f"/edge_worker/v1/logs/push/{JOB_A}"

    def pushed(text: str, path: str = path) -> int:
        before = len(door.through)
        body = {"log_chunk_time": NOW, "log_chunk_data": text}
        assert door.send(guard, "POST", path, site="site-a", json=body).status_code == 200
        return len(door.through) - before

    def line(**changes: str) -> str:
        return json.dumps({**json.loads(TOLD), **changes}) + "\n"

    event = "data.missing [site-a]: The site has no dataset."
    forged = json.dumps({"event": "Anna, https://example.org", "level": "critical"})
    for text in (
        "Traceback (most recent call last): Anna\n",
        TOLD.rstrip(),
        TOLD + TOLD,
        " " + TOLD,
        f'{{"event":\n{forged}\n,{TOLD[1:]}',  # of two values with a name the last one counts
        f'{{"event": {forged}, {TOLD[1:]}',
        TOLD.replace(", ", ",  "),
        TOLD.replace("dataset", "d\\u0061taset"),
        line(rows="Anna"),
        line(event="Anna"),
        line(event=event.replace("site-a", "site-b")),
        line(event=event.replace("data.missing", "data.anna")),
        line(event=event + "\nforged"),
        line(event=event + "x" * 2000),
        line(event=event + " https://example.org"),
        line(level="info"),
        line(logger="root"),
        line(timestamp="2026-11-23 Anna"),
        line(timestamp="0001-01-01T00:00:00Z"),
        line(timestamp=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:}٣٣Z"),
    ):
        assert pushed(text) == 0, text
    # Three, as an answer may get lost and the worker asks again; of each try.
    assert [pushed(line(event=event)) for _ in range(4)] == [1, 1, 1, 0]
    assert pushed(TOLD, path.replace("/1/-1", "/2/-1")) == 1
    for other in ("/01/-1", "/1/-01", "/1/-2"):
        body = {"log_chunk_time": NOW, "log_chunk_data": TOLD}
        answer = door.send(guard, "POST", path.replace("/1/-1", other), site="site-a", json=body)
        assert answer.json()["reason"] == "closed", "no second spelling of a try"


TIMES = {
    "none": None,
    "number": 7,
    "no zone": datetime.now(UTC).replace(tzinfo=None).isoformat(),
    "year one": "0001-01-01T00:00:00+23:59",
    "word": "today",
    "two days ago": (datetime.now(UTC) - timedelta(days=2)).isoformat(),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_time_that_the_database_would_stumble_over_is_refused(door: Door, name: str) -> None:
    when = TIMES[name]
    body = {"log_chunk_time": when, "log_chunk_data": TOLD}
    path = f"/edge_worker/v1/logs/push/{JOB_A}"
    answer = door.send(door.guard(), "POST", path, site="site-a", json=body)
    assert answer.json()["reason"] == "log-push"
    assert not door.through
