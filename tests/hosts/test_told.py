"""What the coordinator is told of a site's failed task, and what it is not."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from folkmoot.errors import DataError
from folkmoot.told import LOGGER, is_told, told_line, told_of
from pipelines.hosts.airflow_told import silent_end, tell, telling

WRONG = DataError(
    "data.missing",
    "File patients.csv in /srv/clinic-a has no rows.",
    "Add some.",
    outside="The site's dataset has no rows.",
)


class Worker:
    """Airflow's worker as far as it is changed."""

    async def _push_logs_in_chunks(self, job: Any) -> None:
        job.asked += 1


def job(log: Path, *, running: bool = False) -> Any:
    own = SimpleNamespace(key="task", task_instance_id="id")
    return SimpleNamespace(logfile=log, edge_job=own, is_running=running, asked=0)


def sent_of(log: Path, *, fails: bool = False) -> list[str]:
    sent: list[str] = []

    async def push(**named: Any) -> None:
        sent.append(named["log_chunk_data"])
        if fails:
            raise ConnectionError

    made = telling(Worker, push)()
    at_work, over = job(log, running=True), job(log)
    asyncio.run(made._push_logs_in_chunks(at_work))
    assert sent == []
    asyncio.run(made._push_logs_in_chunks(over))
    asyncio.run(made._push_logs_in_chunks(over))
    assert (at_work.asked, over.asked) == (1, 2)
    return sent


def test_the_sentence_that_may_cross_is_logged_at_a_site(caplog: pytest.LogCaptureFixture) -> None:
    tell("site-clinic-a", WRONG)
    tell("default", WRONG)
    tell(None, WRONG)
    (record,) = caplog.records
    assert (record.name, record.levelno) == (LOGGER, logging.ERROR)
    assert record.getMessage() == (
        "data.missing [clinic-a]: The site's dataset has no rows. Remedy: Add some."
    )
    assert is_told(told_line(record.getMessage()), "clinic-a")


def test_a_worker_sends_the_last_line_and_no_other_text(tmp_path: Path) -> None:
    log = tmp_path / "attempt=1.log"
    event = "data.missing [clinic-a]: {} Remedy: Add some."
    records = [
        {"event": "Anna Canary", "logger": "task.stdout"},
        {"event": event.format("First."), "logger": LOGGER, "lineno": 3, "row": "Anna Canary"},
        {"event": event.format("Last."), "logger": LOGGER, "row": "Anna Canary"},
        {"event": "Task failed", "error_detail": [{"exc_value": "Anna Canary"}]},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    log.write_text(text + "Anna Canary, no JSON\n[" * 2)
    (sent,) = sent_of(log)
    assert json.loads(sent)["event"] == event.format("Last.")
    assert "Anna" not in sent
    assert is_told(sent, "clinic-a")
    assert not is_told(sent, "clinic-b")


def test_a_task_that_went_well_or_has_no_log_sends_nothing(tmp_path: Path) -> None:
    log = tmp_path / "attempt=1.log"
    assert sent_of(log) == []
    log.write_text(json.dumps({"event": "done", "logger": "task"}) + "\n")
    assert sent_of(log) == []


def test_a_line_that_is_not_taken_stops_nothing(tmp_path: Path) -> None:
    log = tmp_path / "attempt=1.log"
    log.write_text(json.dumps({"event": "data.missing [a]: None.", "logger": LOGGER}) + "\n")
    assert len(sent_of(log, fails=True)) == 1


def test_an_end_without_a_word_is_told_as_such() -> None:
    sent: dict[str, Any] = {}

    async def push(**named: Any) -> None:
        sent.update(named)

    asyncio.run(silent_end(push, "clinic-a", "task", "id"))
    assert is_told(sent["log_chunk_data"], "clinic-a")
    assert "round.site-failed [clinic-a]: " in sent["log_chunk_data"]


def test_long_and_odd_sentences_still_make_a_line() -> None:
    line = told_line("data.missing [a]: " + "é\n\x1b[2J" * 2000)
    assert is_told(line, "a")
    assert told_of(line) == line or json.loads(str(told_of(line)))["level"] == "error"
