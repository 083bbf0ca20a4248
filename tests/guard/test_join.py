"""A site joins, asks, and is told what is wrong: over TLS, at a real server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

import folkmoot
from folkmoot.errors import ConfigError, FolkmootError, ProtocolError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import tokens
from folkmoot.identity.invitation import Invitation
from folkmoot.identity.visit import Visit
from pipelines.guard.asgi import Guard
from pipelines.guard.certificates import ensure_certificate
from pipelines.guard.exchange import exchange_app
from pipelines.guard.join import Invitations
from pipelines.guard.sites import Sites
from site_tasks.health import check_site
from site_tasks.home import SiteHome
from site_tasks.join import coordinator_file, hello, join

from .conftest import KnownJobs


@dataclass
class Server:
    """A guard and the exchange app behind TLS, without Airflow."""

    url: str
    invitations: Invitations
    authority: Path
    facts: dict[str, Any]

    def token(self, invited: str, /, **changes: Any) -> str:
        made = self.invitations.invite(invited, self.url, self.authority.read_text())
        values = {**vars(made), **changes}
        return Invitation(**values).to_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    authority, certificate, key = ensure_certificate(folder, "127.0.0.1")
    assert ensure_certificate(folder, "127.0.0.1")[1].read_bytes() == certificate.read_bytes()
    sites = Sites(folder / "sites.json")
    facts: dict[str, Any] = {"federation": "demo", "sites": ["clinic"]}
    invitations = Invitations(folder / "invitations.json", sites, facts)
    inner = exchange_app(ExchangeStore(folder / "x"), folder / "parts", invitations, facts)
    app = Starlette(routes=[Mount("/exchange", inner)])
    guard = Guard(app, sites=sites, jobs=KnownJobs(), stamp=lambda site: "")
    config = uvicorn.Config(
        guard,  # type: ignore[arg-type]
        port=0,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        log_level="critical",
        lifespan="off",
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield Server(f"https://127.0.0.1:{port}", invitations, authority, facts)
    running.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SiteHome:
    root = tmp_path_factory.mktemp("site") / "home"
    return SiteHome.create(root, "clinic", remote=str(root.parent / "remote"), federations=["demo"])


def _finding(home: SiteHome, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("FOLKMOOT_SITE_HOME", str(home.root))
    found = {f.what: f for f in check_site("clinic", home.root)}
    return found["clinic: coordinator"]


def test_a_site_joins_and_the_doctor_finds_what_goes_wrong_later(
    server: Server, home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert join(home, server.token("clinic"))["federation"] == "demo"
    assert (home.private / "coordinator.json").stat().st_mode & 0o077 == 0
    visit = Visit.load(coordinator_file(home))
    assert abs(hello(visit)["skew"]) < 10
    assert _finding(home, monkeypatch).state == "ok"

    real = time.time
    with monkeypatch.context() as clock:
        clock.setattr(tokens.time, "time", lambda: real() - 3600)
        finding = _finding(home, monkeypatch)
    assert finding.state == "fault"
    assert "clock to be behind" in finding.detail
    server.invitations.sites.remove("clinic")
    assert "does not know this site" in _finding(home, monkeypatch).detail
    (other,) = home.private.glob("coordinator-*.pem")
    kept = other.read_text()
    wrong, _, _ = ensure_certificate(home.root.parent / "elsewhere", "127.0.0.1")
    other.write_text(wrong.read_text())
    assert "does not have the coordinator's certificate" in _finding(home, monkeypatch).detail
    other.write_text(kept)
    Visit("clinic", "https://127.0.0.1:9", home.private, other.name).save(coordinator_file(home))
    assert "cannot be reached" in _finding(home, monkeypatch).detail


def test_other_names_are_held_to_the_certificate(server: Server, home: SiteHome) -> None:
    token = server.token("clinic", url=server.url.replace("127.0.0.1", "localhost"))
    with pytest.raises(TransientError, match="certificate"):
        join(home, token)


def test_versions_that_differ_are_named(
    server: Server, home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.invitations.sites.remove("clinic")
    join(home, server.token("clinic"))
    monkeypatch.setattr("site_tasks.health.hello", lambda v: {**hello(v), "airflow": "2.0.0"})
    finding = _finding(home, monkeypatch)
    assert finding.state == "fault"
    assert "2.0.0 there" in finding.detail
    told = hello(Visit.load(coordinator_file(home)))
    major, minor, *_ = folkmoot.__version__.split(".")
    for later, state in ((1, "ok"), (2, "fault")):  # its guard would refuse the second by itself
        theirs = f"{major}.{int(minor) + later}.0"
        monkeypatch.setattr("site_tasks.health.hello", lambda v, t=theirs: {**told, "folkmoot": t})
        finding = _finding(home, monkeypatch)
        assert finding.state == state
        assert f"folkmoot {folkmoot.__version__} here, {theirs} there" in finding.detail
    monkeypatch.setattr("site_tasks.health.hello", lambda v: {**hello(v), "sites": []})
    assert "does not name this site" in _finding(home, monkeypatch).detail


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"site": "other"}, ConfigError, "invites other"),
        ({"expires": 1}, ConfigError, "has expired"),
        ({"url": "http://127.0.0.1:1"}, ConfigError, "no https address"),
        ({"secret": "00" * 24}, ProtocolError, "does not count here"),
        ({"url": "https://127.0.0.1:9"}, TransientError, "cannot be reached"),
    ],
)
def test_a_token_that_does_not_fit_says_why(
    server: Server, home: SiteHome, change: dict[str, Any], kind: type[FolkmootError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        join(home, server.token("clinic", **change))


def test_code_that_the_steward_has_not_approved_does_not_start(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.hosts import airflow_worker_setup

    commit, other = "a" * 40, "b" * 40
    settings = home.settings.model_copy(
        update={"permissions": home.settings.permissions.model_copy(update={"code": [commit]})}
    )
    monkeypatch.setattr(home, "settings", settings)
    for found, fault in (((other, False), "is bbbb"), ((commit, True), "was changed")):
        monkeypatch.setattr(airflow_worker_setup, "code", lambda found=found: found)
        with pytest.raises(ConfigError, match=fault):
            airflow_worker_setup.approved(home)
    monkeypatch.setattr(airflow_worker_setup, "code", lambda: (commit, False))
    airflow_worker_setup.approved(home)


def test_a_worker_is_alone_and_knows_that_the_last_one_was_killed(tmp_path: Path) -> None:
    """The number in the file it left may be any process's by now, this one's in a container."""
    from pipelines.hosts.airflow_worker import alone

    with alone(tmp_path) as killed:
        assert not killed
        (tmp_path / "worker.pid").write_text(str(os.getpid()))  # as the worker does
    with alone(tmp_path) as killed:
        assert killed
        assert not (tmp_path / "worker.pid").exists()
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "worker.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(TransientError, match="Another worker"), alone(tmp_path):
            pass
        other.kill()
    with alone(tmp_path) as killed:
        assert not killed
