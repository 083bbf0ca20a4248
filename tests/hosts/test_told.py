"""What the coordinator is told of a site's failed task, and what it is not."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from folkmoot.errors import (
    ConfigError,
    DataError,
    FolkmootError,
    PrivacyError,
    ProtocolError,
    RoundError,
)
from folkmoot.told import LOGGER, is_told, sentence, told_line, told_of
from pipelines.hosts.airflow_told import Teller, tell

EVENT = "data.missing [clinic-a]: {} Remedy: Add some."


class Worker:
    """Airflow's worker as far as it is changed."""

    async def _push_logs_in_chunks(self, job: Any) -> None:
        job.asked += 1


class Line:
    """The line to the coordinator; notes what is sent."""

    def __init__(self, *, fails: bool = False) -> None:
        self.sent: list[str] = []
        self.fails = fails

    async def push(self, **named: Any) -> None:
        assert set(named) == {"task", "task_instance_id", "log_chunk_time", "log_chunk_data"}
        self.sent.append(named["log_chunk_data"])
        if self.fails:
            raise ConnectionError

    def teller(self, *, logs: bool = False) -> Teller:
        return Teller(self.push, "clinic-a", lambda: logs)


def job(log: Path, *, running: bool = False) -> Any:
    own = SimpleNamespace(key="task", task_instance_id="id")
    return SimpleNamespace(logfile=log, edge_job=own, is_running=running, asked=0)


def sent_of(log: Path, *, fails: bool = False) -> list[str]:
    line = Line(fails=fails)
    made = line.teller().worker(Worker)()
    at_work, over = job(log, running=True), job(log)
    asyncio.run(made._push_logs_in_chunks(at_work))
    assert line.sent == []
    asyncio.run(made._push_logs_in_chunks(over))
    asyncio.run(made._push_logs_in_chunks(over))
    assert (at_work.asked, over.asked) == (1, 2)
    return line.sent


def test_a_sites_task_logs_it_and_a_coordinators_does_not(caplog: pytest.LogCaptureFixture) -> None:
    wrong = RoundError("round.diverged", "The global model is not finite.", "Lower eta.")
    tell("site-clinic-a", wrong)
    tell("site-clinic-a", "train did not finish within 60 s.")
    tell("default", wrong)
    tell(None, wrong)
    assert {(record.name, record.levelno) for record in caplog.records} == {(LOGGER, logging.ERROR)}
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "round.diverged [clinic-a]: The global model is not finite. Remedy: Lower eta.",
        "round.site-failed [clinic-a]: train did not finish within 60 s. Remedy: Look at the task's "
        "log at the site.",
    ]
    assert all(is_told(told_line(text), "clinic-a") for text in said)


@pytest.mark.parametrize(
    "error",
    [
        PrivacyError(
            "privacy.ceiling", "Its ceiling is 3, 2.75 is spent, 1 is asked.", "Ask 0.25."
        ),
        ConfigError("config.invalid", "/srv/Anna/site.toml: minimum_rows is 275.", "Mend 275."),
        DataError("data.missing", "patients-275.csv is empty.", "Fill patients-275.csv."),
        DataError("data.column", "Column Anna is foreign.", "275.", outside="1 column is foreign."),
    ],
)
def test_what_a_site_holds_permits_and_spent_stays_there(error: FolkmootError) -> None:
    told = sentence(error, "clinic-a")
    assert told.startswith(f"{error.code} [clinic-a]: {error.outside or ''}")
    assert told.endswith("Remedy: At the site, folkmoot doctor --site clinic-a says more.")
    assert "275" not in told
    assert "Anna" not in told


def test_folders_of_the_site_stay_there() -> None:
    home = "/srv/my clinic/home"
    error = ProtocolError(
        "protocol.roster",
        f"{home}/private/coordinator.json and '/etc/ssl/own/ca.pem' are damaged in {home}: 1/2 a/b.",
        f"Restore {home}/private, see docs/how-to/operate.md.",
    )
    assert sentence(error, "clinic-a", home) == (
        "protocol.roster [clinic-a]: private/coordinator.json and 'ca.pem' are damaged in the "
        "site's folder: 1/2 a/b. Remedy: Restore private, see docs/how-to/operate.md."
    )


def test_a_worker_sends_the_last_line_and_no_other_text(tmp_path: Path) -> None:
    log = tmp_path / "attempt=1.log"
    records = [
        {"event": "Anna Canary", "logger": "task.stdout"},
        {"event": EVENT.format("First."), "logger": LOGGER, "lineno": 3, "row": "Anna Canary"},
        {"event": EVENT.format("Last\u2028."), "logger": LOGGER, "row": "Anna Canary"},
        {"event": "Task failed", "error_detail": [{"exc_value": "Anna Canary"}]},
    ]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    log.write_text(text + "Anna Canary, no JSON\n[" * 2)
    (sent,) = sent_of(log)
    assert json.loads(sent)["event"] == EVENT.format("Last .")
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
    log.write_text(json.dumps({"event": EVENT.format("None."), "logger": LOGGER}) + "\n")
    assert len(sent_of(log, fails=True)) == 1


NAMED = {"task": "task", "task_instance_id": "id", "log_chunk_time": "now"}


def test_an_end_without_a_word_is_told_as_such() -> None:
    line = Line()
    text = "Error executing job:\nTraceback: Anna Canary"
    asyncio.run(line.teller().kept(log_chunk_data=text, **NAMED))
    (sent,) = line.sent
    assert is_told(sent, "clinic-a")
    assert "round.site-failed [clinic-a]: The task's process ended" in sent
    asyncio.run(line.teller(logs=True).kept(log_chunk_data=text, **NAMED))
    assert line.sent[1] == text  # and the line, where the coordinator takes no logs
    assert line.sent[2] == sent


def test_a_worker_that_is_about_to_stop_says_nothing_of_its_tasks() -> None:
    line = Line()
    notice = "Edge worker received SIGTERM, draining."
    asyncio.run(line.teller().kept(log_chunk_data=notice, **NAMED))
    assert line.sent == []
    asyncio.run(line.teller(logs=True).kept(log_chunk_data=notice, **NAMED))
    assert line.sent == [notice]


@pytest.mark.parametrize("text", ["é\n\x1b[2J", '"\\', "https://example.org ", "\u2028\u202e"])
def test_long_and_odd_sentences_still_make_a_line(text: str) -> None:
    line = told_line("data.missing [a]: none " + text * 2000)
    assert is_told(line, "a")
    assert is_told(told_of(line), "a")
