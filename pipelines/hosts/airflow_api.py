"""Airflow's REST API, as far as a run needs it: trigger a DAG, watch it, read why it failed."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from folkmoot.errors import ConfigError, FolkmootError, TransientError

__all__ = ["Client", "error_in"]

_ERROR = re.compile(
    r"\b(?P<code>(?:config|data|privacy|protocol|round|transient)\.[a-z-]+)"
    r"(?: \[(?P<site>[^\]]*)\])?: (?P<message>.*) Remedy: (?P<remedy>.*)"
)


class Client(ABC):
    """Calls to one Airflow; where it is and who may log in is told by the subclass."""

    _client: Any = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the UI is."""

    @property
    @abstractmethod
    def login(self) -> tuple[str, str]:
        """User name and password."""

    @property
    @abstractmethod
    def logs(self) -> Path:
        """Folder of the services' own logs."""

    @abstractmethod
    def alive(self) -> None:
        """Raise where the services ended by themselves."""

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def api(self, method: str, path: str, **arguments: Any) -> Any:
        """Call the REST API (``/api/v2`` + path); returns decoded JSON.

        Raises
        ------
        TransientError
            Where Airflow does not answer; ``httpx.HTTPStatusError`` where it refuses.
        """
        import httpx

        for attempt in range(5):
            try:
                if self._client is None:
                    self._client = self._connect()
                answer = self._client.request(method, path, **arguments)
                if answer.status_code in {401, 403} and attempt == 0:
                    self.close()  # a login is good for a day, then 403; a run may take longer
                    continue
                answer.raise_for_status()
                return answer.json() if answer.content else None
            except httpx.TransportError as error:
                self.alive()
                if attempt == 4:
                    raise TransientError(
                        "transient.service",
                        f"Airflow's API did not answer ({type(error).__name__}).",
                        f"Look at {self.logs} and start again.",
                    ) from None
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _connect(self) -> Any:
        import httpx

        user, password = self.login
        token = httpx.post(
            f"{self.url}/auth/token", json={"username": user, "password": password}, timeout=30.0
        )
        token.raise_for_status()
        return httpx.Client(
            base_url=f"{self.url}/api/v2",
            headers={"Authorization": f"Bearer {token.json()['access_token']}"},
            timeout=30.0,
        )

    def wait_dag(self, dag: str, since: float, timeout: float = 60.0) -> None:
        """Wait until the dag-processor has read a DAG's file after ``since`` (Unix time).

        Raises
        ------
        ConfigError
            Where the file has an import error.
        TransientError
            Where it takes too long.
        """
        import httpx

        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for fault in self.api("GET", "/importErrors")["import_errors"]:
                if fault["filename"].endswith(f"{dag}.py"):
                    text = fault["stack_trace"].strip()
                    raise error_in(text) or ConfigError(
                        "config.invalid",
                        f"{fault['filename']} cannot be read: {text.splitlines()[-1]}",
                        "Mend what the message names.",
                    )
            try:
                parsed = self.api("GET", f"/dags/{dag}")["last_parsed_time"]
                if parsed and datetime.fromisoformat(parsed).timestamp() >= since:
                    return
            except httpx.HTTPStatusError as error:
                if error.response.status_code != 404:
                    raise
            time.sleep(0.1)
        raise TransientError(
            "transient.service",
            f"{dag} was not read within {timeout:.0f} s.",
            f"Look at {self.logs / 'dag-processor.log'}.",
        )

    def trigger(
        self, dag: str, conf: Mapping[str, Any] | None = None, note: str | None = None
    ) -> str:
        """Start a DAG run by hand; returns its id."""
        body = {"logical_date": None, "conf": dict(conf or {}), "note": note}
        return str(self.api("POST", f"/dags/{dag}/dagRuns", json=body)["dag_run_id"])

    def dag_run(self, dag: str, run: str) -> dict[str, Any]:
        """State, dates and note of a DAG run."""
        found: dict[str, Any] = self.api("GET", f"/dags/{dag}/dagRuns/{_quoted(run)}")
        return found

    def end_run(self, dag: str, run: str, note: str) -> None:
        """Mark a DAG run failed, which also stops its tasks."""
        body = {"state": "failed", "note": note}
        self.api("PATCH", f"/dags/{dag}/dagRuns/{_quoted(run)}", json=body)

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """Task instances of a DAG run by task id."""
        found: dict[str, dict[str, Any]] = {}
        while True:
            page = self.api(
                "GET",
                f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances",
                params={"limit": 100, "offset": len(found)},
            )
            found.update({task["task_id"]: task for task in page["task_instances"]})
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def task_log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        """Text of a task's log."""
        path = f"/dags/{dag}/dagRuns/{_quoted(run)}/taskInstances/{task}/logs/{attempt}"
        content = self.api("GET", path, headers={"Accept": "application/json"})["content"]
        lines: list[str] = []
        for line in content:
            lines.append(str(line.get("event", "")))
            lines += [f"{e['exc_type']}: {e['exc_value']}" for e in line.get("error_detail") or ()]
        return "\n".join(lines)


def error_in(text: str) -> FolkmootError | None:
    """The last error of ours that a log or traceback ends with, as it was raised."""
    found = list(_ERROR.finditer(text))
    if not found:
        return None
    values = found[-1].groupdict()
    families = {
        kind.__name__.removesuffix("Error").lower(): kind for kind in FolkmootError.__subclasses__()
    }
    family = families[values["code"].split(".")[0]]
    return family(values["code"], values["message"], values["remedy"], site=values["site"])


def _quoted(run: str) -> str:
    return quote(run, safe="")
