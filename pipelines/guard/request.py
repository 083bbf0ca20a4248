"""What the checks look at: one request, who sends it, and what is known of the task it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.guard.sites import Member

__all__ = ["Job", "Jobs", "Refusal", "Request", "Task"]


@dataclass(frozen=True)
class Refusal:
    """Why a request is not let through; ``quiet`` answers it as if it had been done."""

    status: int
    reason: str
    quiet: bool = False


@dataclass(frozen=True)
class Task:
    """A task instance, as the coordinator's database has it."""

    dag: str
    run: str
    task: str
    queue: str


@dataclass(frozen=True)
class Job:
    """A job of the edge executor: its queue, the worker that holds it, its task instance's id."""

    queue: str
    worker: str | None
    identity: str = ""


class Jobs(Protocol):
    """What is asked of the coordinator's database."""

    async def task(self, identity: str) -> Task | None:
        """The task instance of an id."""

    async def job(self, dag: str, task: str, run: str, attempt: int, index: int) -> Job | None:
        """The edge executor's job of a task instance."""

    async def subject(self, token: str) -> str | None:
        """Id of the task instance that a task's token was signed for; None where it is not valid."""

    async def put_back(self, queue: str) -> None:
        """See that jobs are queued again that a worker of the queue took long ago and never began."""


@dataclass
class Request:
    """A request of a site on one of the allowed routes.

    Parameters
    ----------
    method, path : str
        As on the request line, without query.
    query : dict of str to str
        Parameters; no name comes twice.
    headers : dict of str to str
        By lower-case name; those that must be single are.
    route : str
        Name of the route.
    params : dict of str to str
        Parts of the path by the route's names.
    site : str
        Who sends it.
    member : Member
        What is known of the site.
    jobs : Jobs
        The coordinator's database.
    body : object
        Decoded JSON, where the route has some.
    task : Task, optional
        The task that a request with a task's token comes from.
    subject : str
        Id of that task.
    first : callable
        Whether the site does what a text names for the first time today.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    route: str
    params: Mapping[str, str]
    site: str
    member: Member
    jobs: Jobs
    body: Any = None
    task: Task | None = None
    subject: str = ""
    first: Callable[[str], bool] = lambda number: False

    @property
    def queue(self) -> str:
        """The only queue of the site."""
        return f"site-{self.site}"
