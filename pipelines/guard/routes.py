"""The requests that a site's worker makes: an allowlist.  Whatever is not here is refused.

Read off the edge provider 5.1.0 (``airflow.providers.edge3.cli.api_client``), the tasks' supervisor
of Airflow 3.3 (``airflow.sdk.api.client``) and the exchange store's own client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["ROUTES", "Route", "find"]

Who = Literal["site", "task", "guest"]
#: One part of a path: no slash, no percent sign, no dots alone.
_PART = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9_.~:@+=,-]{1,250}"
_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_JOB = "{dag}/{task}/{run}/{attempt}/{index}"
_PARTS = {
    "id": _ID,
    "attempt": r"(?:0|[1-9][0-9]{0,5})",  # one spelling of each number
    "index": r"(?:-1|0|[1-9][0-9]{0,8})",
    "key": rf"{_PART}(?:/{_PART}){{1,9}}",
}
EDGE, EXECUTION, EXCHANGE = "/edge_worker/v1", "/execution", "/exchange/v1"
KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Route:
    """One kind of request.

    Parameters
    ----------
    name : str
        How checks speak of it.
    methods : tuple of str
        HTTP methods.
    path : str
        With ``{names}`` of its parts.
    who : {"site", "task", "guest"}
        Whose token it takes: the site's own, the one that the coordinator signed for a task, none.
    body : int
        Most bytes of a JSON body that is read and checked; 0 for none.
    query : tuple of str
        Parameters that may come.
    stream : bool
        Whether the body is passed on as it comes, up to the guard's limit for uploads.
    """

    name: str
    methods: tuple[str, ...]
    path: str
    who: Who
    body: int = 0
    query: tuple[str, ...] = ()
    stream: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        """The path as an expression."""
        text = re.escape(self.path).replace(r"\{", "{").replace(r"\}", "}")
        named = re.sub(
            r"\{(\w+)\}", lambda found: f"(?P<{found[1]}>{_PARTS.get(found[1], _PART)})", text
        )
        return re.compile(named)


ROUTES = (
    # The worker itself.
    Route("worker", ("POST", "PATCH"), f"{EDGE}/worker/{{worker}}", "site", 16 * KIB),
    Route("fetch", ("POST",), f"{EDGE}/jobs/fetch/{{worker}}", "site", 4 * KIB),
    Route("job-state", ("PATCH",), f"{EDGE}/jobs/state/{_JOB}/{{state}}", "site", KIB),
    Route(
        "log-path",
        ("GET",),
        f"{EDGE}/logs/logfile_path/{_JOB}",
        "site",
        query=("task_instance_id",),
    ),
    Route("log-push", ("POST",), f"{EDGE}/logs/push/{_JOB}", "site", MIB),
    # The supervisor of one task.
    Route("task-run", ("PATCH",), f"{EXECUTION}/task-instances/{{id}}/run", "task", 4 * KIB),
    Route("task-state", ("PATCH",), f"{EXECUTION}/task-instances/{{id}}/state", "task", 4 * KIB),
    Route("task-beat", ("PUT",), f"{EXECUTION}/task-instances/{{id}}/heartbeat", "task", KIB),
    Route("task-fields", ("PUT",), f"{EXECUTION}/task-instances/{{id}}/rtif", "task", KIB),
    Route(
        "xcom-read",
        ("GET", "HEAD"),
        f"{EXECUTION}/xcoms/{{dag}}/{{run}}/{{task}}/{{name}}",
        "task",
        query=("map_index",),
    ),
    Route(
        "xcom-write",
        ("POST",),
        f"{EXECUTION}/xcoms/{{dag}}/{{run}}/{{task}}/{{name}}",
        "task",
        16 * KIB,
        ("map_index", "dag_result"),
    ),
    Route(
        "xcom-clear",
        ("DELETE",),
        f"{EXECUTION}/xcoms/{{dag}}/{{run}}/{{task}}/{{name}}",
        "task",
        query=("map_index",),
    ),
    Route("variable", ("GET",), f"{EXECUTION}/variables/{{name}}", "task"),
    Route("connection", ("GET",), f"{EXECUTION}/connections/{{name}}", "task"),
    # The exchange store.
    Route("read", ("GET", "HEAD"), f"{EXCHANGE}/{{key}}", "site"),
    Route("write", ("PATCH",), f"{EXCHANGE}/{{key}}", "site", stream=True),
    # Before a site has a key here, and for whoever looks whether the guard stands.
    Route("join", ("POST",), "/exchange/join", "guest", 4 * KIB),
    Route("health", ("GET",), "/exchange/health", "guest"),
    Route("hello", ("GET",), "/exchange/hello", "site"),
)

_TABLE = tuple((route, route.pattern) for route in ROUTES)


def find(
    method: str, path: str, routes: Iterable[Route] | None = None
) -> tuple[Route, dict[str, str]] | None:
    """The route of a request with the parts of its path, or None; O(routes)."""
    table = _TABLE if routes is None else tuple((r, r.pattern) for r in routes)
    for route, pattern in table:
        if method in route.methods and (found := pattern.fullmatch(path)):
            return route, found.groupdict()
    return None
