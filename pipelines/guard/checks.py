"""What a request must fulfil, one rule each.  A request passes when every rule of its route holds.

Each rule has a test that fails without it (``tests/guard/test_rules.py``).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import folkmoot
from folkmoot.told import is_told
from folkmoot.versions import together
from pipelines.guard.request import Refusal, Request

__all__ = ["CHECKS", "Check"]

Rule = Callable[[Request], Awaitable[Refusal | None]]
_REF = {"key": str, "digest": str, "size": int}
_KEY = re.compile(r"[a-z0-9][A-Za-z0-9._-]*(/[a-z0-9][A-Za-z0-9._-]*){1,9}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SYSINFO = frozenset(
    {
        *("status", "status_text", "version_mismatch_description", "airflow_version"),
        *("edge_provider_version", "python_version", "worker_start_time", "concurrency"),
        *("free_concurrency", "folkmoot_version"),
    }
)


@dataclass(frozen=True)
class Check:
    """A rule and the routes that it holds for."""

    name: str
    routes: frozenset[str]
    rule: Rule


CHECKS: list[Check] = []


def _check(*routes: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        CHECKS.append(Check(rule.__name__.replace("_", "-"), frozenset(routes), rule))
        return rule

    return register


def _no(reason: str, status: int = 403) -> Refusal:
    return Refusal(status, reason)


# The worker -----------------------------------------------------------------------------------


@_check("worker", "fetch")
async def worker_name(request: Request) -> Refusal | None:
    """A site's workers bear its name: ``site-a``, or ``site-a.2`` and so on."""
    name, _, number = request.params["worker"].partition(".")
    if name != request.site or not re.fullmatch("[a-z0-9-]{0,10}", number):
        return _no("worker-name")
    return None


@_check("worker", "fetch")
async def queue(request: Request) -> Refusal | None:
    """A worker names its site's queue and no other; without a name it would take all."""
    body = _object(request.body)
    if body.get("queues") != [request.queue] or body.get("team_name") is not None:
        return _no("queue")
    return None


@_check("worker")
async def worker_facts(request: Request) -> Refusal | None:
    """What a worker says of itself is versions and numbers, on one line, and short."""
    body = _object(request.body)
    said = _object(body.get("sysinfo"))
    comment = body.get("maintenance_comments")
    version = str(said.get("python_version", "")).replace("\n", " ", 1)  # which has two lines
    if set(said) - _SYSINFO or not all(map(_plain, {**said, "python_version": version}.values())):
        return _no("worker-facts")
    if isinstance(comment, str):  # Airflow's own has lines; it is shown and goes to no log
        comment = comment.replace("\n", " ")
    return None if comment is None or _plain(comment) else _no("worker-facts")


@_check("job-state", "log-path", "log-push")
async def job_holder(request: Request) -> Refusal | None:
    """State and logs of a job are told by the worker that holds it, and of no other task's id."""
    p = request.params
    job = await request.jobs.job(p["dag"], p["task"], p["run"], int(p["attempt"]), int(p["index"]))
    if job is None or job.queue != request.queue or job.worker is None:
        return _no("job-holder")
    sent = (request.query, _object(request.body))
    named = [s["task_instance_id"] for s in sent if s.get("task_instance_id") is not None]
    if any(name != job.identity for name in named):
        return _no("job-holder")
    return None if job.worker.partition(".")[0] == request.site else _no("job-holder")


@_check("job-state")
async def job_state(request: Request) -> Refusal | None:
    """A worker reports that a job runs, or how it ended."""
    return None if request.params["state"] in {"running", "success", "failed"} else _no("job-state")


@_check("log-push")
async def log_push(request: Request) -> Refusal | None:
    """The text of logs stays at the site, but for a line of each try that says why it failed.

    All else is dropped unless the site's entry says otherwise.
    """
    text = _object(request.body).get("log_chunk_data")
    told = is_told(text, request.site)
    if told == request.member.logs:  # where all of a log is taken, the line is in it
        return Refusal(200, "log-push", quiet=True)
    if not _recent(_object(request.body).get("log_chunk_time")):
        return _no("log-push")
    if told:
        # Tries, as an answer may get lost; counted in each process of the API server.
        first = any(request.first(f"told {n} {request.path}") for n in range(3))
        return None if first else Refusal(200, "log-push", quiet=True)
    if not isinstance(text, str) or any(ord(c) < 32 and c not in "\n\t" for c in text):
        return _no("log-push")
    return None


# The task -------------------------------------------------------------------------------------


@_check("task-run", "task-state", "task-beat", "task-fields")
async def own_task(request: Request) -> Refusal | None:
    """A task's token moves that task alone."""
    return None if request.params["id"] == request.subject else _no("own-task")


@_check("task-run")
async def task_host(request: Request) -> Refusal | None:
    """Names of host and user that are shown: one short line."""
    body = _object(request.body)
    names = (body.get("hostname"), body.get("unixname"))
    return None if all(isinstance(n, str) and _plain(n) for n in names) else _no("task-host")


@_check("task-state")
async def task_outcome(request: Request) -> Refusal | None:
    """A task ends or waits for its next try; it defers to nobody and announces no assets."""
    body = _object(request.body)
    if body.get("state") not in {"success", "failed", "skipped", "up_for_retry"}:
        return _no("task-outcome")
    said = ("task_outlets", "outlet_events", "rendered_map_index", "retry_reason")
    return _no("task-outcome") if any(body.get(name) for name in said) else None


@_check("task-fields")
async def task_fields(request: Request) -> Refusal | None:
    """Site tasks render no templates, so that no text leaves by their fields."""
    return _no("task-fields") if request.body else None


@_check("xcom-read")
async def xcom_read(request: Request) -> Refusal | None:
    """XCom is read within the own run."""
    own = request.task
    if own is None or (request.params["dag"], request.params["run"]) != (own.dag, own.run):
        return _no("xcom-read")
    return None


@_check("xcom-write", "xcom-clear")
async def xcom_write(request: Request) -> Refusal | None:
    """XCom is written by the own task, under the one name that results have."""
    own, p = request.task, request.params
    if own is None or (p["dag"], p["run"], p["task"]) != (own.dag, own.run, own.task):
        return _no("xcom-write")
    if p["name"] != "return_value" or "dag_result" in request.query:
        return _no("xcom-write")
    return None


@_check("xcom-write")
async def xcom_content(request: Request) -> Refusal | None:
    """References and digests, nothing else."""
    value = request.body
    if isinstance(value, str):  # as the task's own serialiser wraps it
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return _no("xcom-content")
    if value is None or _refreshed(value, request.site):
        return None
    if isinstance(value, list) and len(value) <= 16 and all(map(_reference, value)):
        return None
    return _no("xcom-content")


@_check("variable", "connection")
async def prefix(request: Request) -> Refusal | None:
    """Variables and connections under the site's own prefix."""
    mine = f"{request.queue}."
    return None if request.params["name"].startswith(mine) else _no("prefix")


# The exchange store ---------------------------------------------------------------------------

#: What the coordinator publishes for all sites of a run.
_PUBLISHED = re.compile(
    r"run\.json(?:\.signature)?|final/result\.json(?:\.signature)?|secure/(?:keys|members)\.json"
    r"|round-000/schema\.json(?:\.signature)?|round-\d{3,6}/(?:model|record\.json)(?:\.signature)?"
    r"|(?:round-\d{3,6}|agree|final)/(?:survivors\.json(?:\.signature)?|total)"
)
#: What a site publishes, but for its name.
_OWN = re.compile(
    r"round-000/(?:agreement|statistics|masked)-|secure/(?:keys|shares)-"
    r"|round-\d{3,6}/(?:update|statement|answer|letters)-|(?:agree|final)/(?:statement|answer)-"
    r"|final/evaluation-"
)
_RUN = re.compile(
    r"(?P<federation>[^/]+)/(?P<kind>runs|anchors|sessions)/(?P<run>[^/]+)/(?P<rest>.+)"
)
#: An attempt at a round's live session.
_SESSION = r"round-\d{3,6}-[0-9a-f]{16}/\d{3}/"


@_check("write")
async def exchange_write(request: Request) -> Refusal | None:
    """A site publishes under its own name, the kinds of artefact that a plan asks of sites."""
    parts = _RUN.fullmatch(request.params["key"])
    if parts is None or not _own(parts, request.site):
        return _no("exchange-write")
    return None


@_check("read")
async def exchange_read(request: Request) -> Refusal | None:
    """A site reads what is published for all, what is addressed to it, and what it wrote."""
    parts = _RUN.fullmatch(request.params["key"])
    if parts is None:
        return _no("exchange-read")
    rest = parts["rest"]
    if parts["kind"] == "anchors":
        shown = re.fullmatch(r"round-\d{3,6}", rest) or _own(parts, request.site)
        return None if shown else _no("exchange-read")
    if parts["kind"] == "sessions":
        told = re.fullmatch(_SESSION + r"(?:open|start|over)\.json", rest)
        return None if told or _own(parts, request.site) else _no("exchange-read")
    if _PUBLISHED.fullmatch(rest) or rest == f"secure/inbox-{request.site}":
        return None
    # Of the other sites: public keys for the run's sums, and boxes sealed from site to site; each
    # site holds them to a signed list.
    if re.fullmatch(r"(?:secure/keys|round-\d{3,6}/letters)-[a-z0-9][a-z0-9._-]*", rest):
        return None
    return None if _own(parts, request.site) else _no("exchange-read")


def _own(parts: re.Match[str], site: str) -> bool:
    rest = parts["rest"]
    if parts["kind"] == "anchors":
        return re.fullmatch(rf"heads/round-\d{{3,6}}/[a-z]+/{re.escape(site)}", rest) is not None
    if parts["kind"] == "sessions":
        words = r"(?:hello|done|failed|beat-\d{1,6})-"
        return re.fullmatch(_SESSION + words + re.escape(site), rest) is not None
    stem = rest.removesuffix(site)
    return rest.endswith(site) and _OWN.fullmatch(stem) is not None


@_check("read", "write", "hello")
async def version(request: Request) -> Refusal | None:
    """A site whose folkmoot is too far from the coordinator's is told so before it does anything."""
    said = re.fullmatch(r"folkmoot/([0-9A-Za-z.+-]{1,40})", request.headers.get("user-agent", ""))
    return _no("version") if said and not together(said[1], folkmoot.__version__) else None


@_check("write")
async def upload_frame(request: Request) -> Refusal | None:
    """An upload says how long it is, where this part belongs and what the whole hashes to."""
    names = ("content-length", "upload-offset", "upload-length")
    if not all(re.fullmatch("[0-9]{1,15}", request.headers.get(name, "")) for name in names):
        return _no("upload-frame", 411)
    return None


# Values ---------------------------------------------------------------------------------------


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> bool:
    """A number, or a short printable line."""
    if isinstance(value, int | float) or value is None:
        return True
    return isinstance(value, str) and len(value) <= 500 and value.isprintable()


def _recent(value: Any) -> bool:
    """A time with its zone, within a day of now: Airflow's database takes no others well."""
    try:
        return abs(time.time() - datetime.fromisoformat(value).timestamp()) < 86_400 and (
            value.isascii() and value.endswith(("Z", "+00:00"))
        )
    except (TypeError, ValueError, OverflowError):
        return False


def _reference(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != set(_REF):
        return False
    key, digest, size = value["key"], value["digest"], value["size"]
    return (
        isinstance(key, str)
        and len(key) <= 500
        and _KEY.fullmatch(key) is not None
        and isinstance(digest, str)
        and _DIGEST.fullmatch(digest) is not None
        and type(size) is int
        and 0 <= size < 1 << 48
    )


def _refreshed(value: Any, site: str) -> bool:
    """What a refresh tells: the site, and the keyed fingerprint of its dataset."""
    return (
        isinstance(value, dict)
        and set(value) == {"site", "dataset"}
        and value["site"] == site
        and isinstance(value["dataset"], str)
        and _DIGEST.fullmatch(value["dataset"]) is not None
    )
