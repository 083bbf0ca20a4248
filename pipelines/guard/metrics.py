"""What the guard counts: a Prometheus endpoint for the operator, and recent refusals for the doctor.

The endpoint is a server of its own.  It listens on loopback, or elsewhere with the operator's token;
the port that sites reach does not have it.  Labels are names of members, routes and reasons: nothing
that a stranger can make up.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.errors import ConfigError
from pipelines.guard.asgi import SITE, App, Guard, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Metered", "Metrics", "operator_token", "serve", "tell_refused"]

#: Seconds between two writings of the recent refusals.
_FLUSH = 5.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Metrics:
    """Counters of one guard.

    Parameters
    ----------
    recent : Path, optional
        File that keeps the last refusal of each site and reason (JSON), for ``folkmoot doctor``.
    """

    def __init__(self, recent: Path | None = None) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry: CollectorRegistry = CollectorRegistry()
        self._requests = Counter(
            "folkmoot_guard_requests",
            "Requests by site, route and outcome: ok, or the reason why the guard refused",
            ("site", "route", "outcome"),
            registry=self.registry,
        )
        self._bytes = Counter(
            "folkmoot_guard_bytes",
            "Bytes of bodies, in from a site and out to it",
            ("site", "direction"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "folkmoot_guard_seconds",
            "Seconds in the guard before a request was handed on or refused",
            ("route",),
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0),
            registry=self.registry,
        )
        self._seen = Gauge(
            "folkmoot_guard_last_seen_seconds",
            "Unix time of a site's last request that was let through",
            ("site",),
            registry=self.registry,
        )
        self._path, self._changed = recent, False
        self._refused: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        if recent is not None:
            threading.Thread(target=self._keep, daemon=True, name="guard-refusals").start()

    def observe(self, site: str | None, route: str | None, reason: str, seconds: float) -> None:
        """One answer of the guard; O(1)."""
        who, where = site or "", route or ""
        self._requests.labels(who, where, reason).inc()
        self._seconds.labels(where).observe(seconds)
        if reason == "ok":
            self._seen.labels(who).set_to_current_time()
        else:
            self.refused(who, reason)

    def refused(self, site: str, reason: str) -> None:
        """One refusal for the record alone, from any thread; O(1).

        The record grows with names and reasons, not with requests: ``site`` is a name that is known
        here, or empty for all strangers together.
        """
        if self._path is None:
            return
        with self._lock:
            entry = self._refused.setdefault(f"{site} {reason}", {"count": 0})
            entry["count"] += 1
            entry["last"] = int(time.time())
            self._changed = True

    def passed(self, site: str, direction: str, size: int) -> None:
        """Bytes of a body."""
        self._bytes.labels(site, direction).inc(size)

    def write(self) -> None:
        """Keep what was refused so far."""
        if self._path is None or not self._changed:
            return
        self._changed = False
        found = [
            {"site": key.partition(" ")[0], "reason": key.partition(" ")[2], **value}
            for key, value in self._refused.copy().items()
        ]
        part = self._path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(found, file)
        os.replace(part, self._path)

    def _keep(self) -> None:
        while True:
            time.sleep(_FLUSH)
            try:
                self.write()
            except OSError:  # a full disk is told elsewhere
                continue


class Metered(Guard):
    """The guard, with its answers and what passes it counted; arguments as :class:`Guard`."""

    def __init__(self, app: App, *, metrics: Metrics, **arguments: Any) -> None:
        super().__init__(_counted(app, metrics), observe=metrics.observe, **arguments)


#: Whose record a request's refusals go to; set for what the guard hands on, and there alone.
_RECORD: ContextVar[Metrics | None] = ContextVar("folkmoot-guard-record", default=None)


def tell_refused(site: str, reason: str) -> None:
    """Record that the application behind the guard refused the request at hand, as the guard does.

    Parameters
    ----------
    site : str
        A name that is known here, with a question mark where it is a claim; empty for a stranger.
    reason : str
        A word that ``folkmoot doctor`` knows.
    """
    metrics = _RECORD.get()
    if metrics is not None:
        metrics.refused(site, reason)


def _counted(app: App, metrics: Metrics) -> App:
    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        site = scope.get(SITE) or ""
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def taken() -> Message:
            message = await receive()
            size = len(message.get("body") or b"")
            if size:
                metrics.passed(site, "in", size)
            return message

        async def given(message: Message) -> None:
            size = len(message.get("body") or b"")
            if size:
                metrics.passed(site, "out", size)
            await send(message)

        mark = _RECORD.set(metrics)
        try:
            await app(scope, taken, given)
        finally:
            _RECORD.reset(mark)

    return counted


def operator_token(folder: Path) -> str:
    """The operator's token for the endpoint, made once (``metrics.token``, mode 0600)."""
    path = folder / "metrics.token"
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text(encoding="utf-8").strip()


def serve(metrics: Metrics, listen: str, port: int, token: str | None) -> Callable[[], None]:
    """Serve the endpoint from a thread of this process; returns what stops it.

    Parameters
    ----------
    metrics : Metrics
        The counters.
    listen, port : str, int
        Where; any free port for 0.
    token : str, optional
        What a request must bring (``Authorization: Bearer``); nothing on loopback when absent.

    Raises
    ------
    ConfigError
        Without a token anywhere else than on loopback, and where the port is taken.
    """
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    from prometheus_client import make_wsgi_app

    if token is None and listen not in _LOOPBACK:
        raise ConfigError(
            "config.invalid",
            f"The guard's metrics would be open to all at {listen}.",
            "Serve them on loopback, or with the operator's token.",
        )
    inner = make_wsgi_app(metrics.registry)

    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        given = environ.get("HTTP_AUTHORIZATION", "")
        wanted = f"Bearer {token}"
        if token is not None and not hmac.compare_digest(given.encode(), wanted.encode()):
            start("401 Unauthorized", [("WWW-Authenticate", "Bearer")])
            return [b""]
        answer: Iterable[bytes] = inner(environ, start)
        return answer

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: each scrape would be a line."""

    class Threaded(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    try:
        server = make_server(listen, port, app, Threaded, Quiet)
    except OSError:
        raise ConfigError(
            "config.invalid",
            f"The guard's metrics cannot be served at {listen}:{port}: the port is taken.",
            "Change metrics_port in coordinator/server.toml.",
        ) from None
    threading.Thread(target=server.serve_forever, daemon=True, name="guard-metrics").start()
    return server.shutdown
