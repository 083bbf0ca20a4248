"""What both doctors tell of a token that is wrong, used or expired."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from folkmoot.errors import ConfigError, FolkmootError, ProtocolError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.findings import Finding
from folkmoot.identity.invitation import Invitation
from folkmoot.identity.visit import Visit
from pipelines.guard.exchange import exchange_app
from pipelines.guard.join import Invitations
from pipelines.guard.limits import Limits
from pipelines.guard.metrics import Metered, Metrics, tell_refused
from pipelines.serving_health import _refusals
from site_tasks import join as joining
from site_tasks.health import check_site
from site_tasks.home import SiteHome
from site_tasks.join import coordinator_file, failed_join, join

from .conftest import Door, KnownJobs, TestClient

URL = "https://coordinator.example"


async def _through(request: Any, call_next: Any) -> Any:
    return await call_next(request)


class Coordinator:
    """The guard, its record and the exchange app behind it, without Airflow and TLS."""

    def __init__(self, door: Door, folder: Path) -> None:
        self.sites, self.record = door.sites, folder / "refusals.json"
        facts = {"federation": "demo", "sites": ["clinic"]}
        self.invitations = Invitations(folder / "invitations.json", door.sites, facts)
        inner = exchange_app(ExchangeStore(folder / "x"), folder / "p", self.invitations, facts)
        self.metrics = Metrics(self.record)
        guard = Metered(
            # As in Airflow, whose own middleware runs what is behind it in another task.
            Starlette(
                routes=[Mount("/exchange", inner)],
                middleware=[Middleware(BaseHTTPMiddleware, dispatch=_through)],
            ),
            metrics=self.metrics,
            sites=door.sites,
            jobs=KnownJobs(),
            stamp=lambda site: "stamp",
            limits=Limits(1e6, 1000000, 1 << 20),
        )
        self.client = TestClient(guard, base_url=URL)

    def asked(self, invitation: Invitation, key: Ed25519PrivateKey, **changes: Any) -> int:
        values = {**invitation.answer(key), **changes}
        return self.client.post("/exchange/join", json=values).status_code

    def told(self) -> dict[tuple[str, str], int]:
        self.metrics.write()
        if not self.record.exists():
            return {}
        kept = json.loads(self.record.read_text())
        return {(entry["site"], entry["reason"]): entry["count"] for entry in kept}

    def findings(self) -> dict[str, Finding]:
        self.metrics.write()
        return {finding.what: finding for finding in _refusals(self.record)}


@pytest.fixture
def coordinator(door: Door, tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(door, tmp_path)
    with made.client:
        yield made


def test_the_coordinators_doctor_tells_each_token_that_did_not_count(
    coordinator: Coordinator,
) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    old = coordinator.invitations.invite("clinic", URL, None)
    new = coordinator.invitations.invite("clinic", URL, None)
    assert coordinator.asked(old, key) == 403  # its name is a claim
    assert coordinator.told() == {("clinic?", "join-wrong"): 1}
    assert coordinator.asked(new, key, proof="00" * 64) == 403
    assert coordinator.told() == {("clinic?", "join-wrong"): 2}
    assert coordinator.asked(new, key) == 200
    assert coordinator.told() == {("clinic?", "join-wrong"): 2}, "success is no refusal"
    finding = coordinator.findings()["clinic?: refused"]
    assert finding.state == "warning"
    assert "not its last one: 2 requests" in finding.detail
    assert "coordinator invite" in finding.remedy

    assert coordinator.asked(new, key) == 403
    assert coordinator.told()["clinic", "join-used"] == 1, "who holds its key is the site itself"
    assert coordinator.asked(new, other) == 403
    assert coordinator.told()["clinic?", "join-used"] == 1
    assert "a token that was used" in coordinator.findings()["clinic: refused"].detail

    again = coordinator.invitations.invite("clinic", URL, None)
    assert coordinator.asked(again, other) == 403
    assert coordinator.told()["clinic", "join-key"] == 1

    late = coordinator.invitations.invite("late", URL, None, hours=-1.0)
    assert coordinator.asked(late, other) == 403
    assert coordinator.told()["late", "join-expired"] == 1
    finding = coordinator.findings()["late: refused"]
    assert "has expired: 1 requests" in finding.detail
    assert "coordinator invite" in finding.remedy
    assert all(finding.remedy for finding in coordinator.findings().values())
    text = coordinator.record.read_text()
    assert not [i for i in (old, new, again, late) if i.secret in text], "no secret is kept"


def test_strangers_are_one_line_however_many_names_they_make_up(coordinator: Coordinator) -> None:
    key = Ed25519PrivateKey.generate()
    for number in range(200):
        assert coordinator.asked(Invitation(f"made-up-{number}", URL, "00" * 24, 0), key) == 403
    assert coordinator.asked(Invitation("x" * 300, URL, "00" * 24, 0), key) == 403
    assert coordinator.asked(Invitation("clinic", URL, "00" * 24, 0), key, site=3) == 403
    assert coordinator.told() == {("", "join-unknown"): 202}
    assert coordinator.record.stat().st_size < 200
    finding = coordinator.findings()["strangers: refused"]
    assert "who is not invited: 202 requests" in finding.detail
    assert "coordinator invite" in finding.remedy


def test_a_refusal_outside_of_a_request_goes_to_no_record(coordinator: Coordinator) -> None:
    tell_refused("clinic", "join-used")
    invitation = Invitation("clinic", URL, "00" * 24, 0)
    with pytest.raises(ProtocolError, match="does not count here"):
        coordinator.invitations.accept(invitation.answer(Ed25519PrivateKey.generate()))
    assert coordinator.told() == {}


# At the site --------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteHome:
    root = tmp_path / "site"
    monkeypatch.setenv("FOLKMOOT_SITE_HOME", str(root))
    return SiteHome.create(root, "clinic", remote=str(tmp_path / "r"), federations=["demo"])


@pytest.fixture
def line(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site's requests go to the coordinator of this test."""
    monkeypatch.setattr(
        Visit, "client", lambda self: TestClient(coordinator.client.app, base_url=URL)
    )


Doctor = Callable[[], dict[str, Finding]]


@pytest.fixture
def doctor(home: SiteHome, tmp_path: Path) -> Doctor:
    def ask() -> dict[str, Finding]:
        found = list(check_site("clinic", tmp_path / "workspace"))
        return {f.what: f for f in found if f.what.endswith((": joined", ": coordinator"))}

    return ask


def test_a_site_that_has_not_joined_is_told_what_to_do(doctor: Doctor) -> None:
    (finding,) = doctor().values()
    assert finding.what == "clinic: joined"
    assert finding.state == "warning"
    assert "has not joined" in finding.detail
    assert "folkmoot site join clinic TOKEN" in finding.remedy


def test_sites_beside_their_coordinator_and_simulated_ones_need_not_join(
    home: SiteHome, doctor: Doctor, tmp_path: Path
) -> None:
    (tmp_path / "workspace" / "coordinator").mkdir(parents=True)
    assert doctor() == {}
    (tmp_path / "workspace" / "coordinator").rmdir()
    assert doctor()
    settings = home.root / "site.toml"
    settings.write_text("simulated = true\n" + settings.read_text().replace("simulated = ", "# "))
    assert doctor() == {}
    with pytest.raises(ConfigError):
        join(SiteHome.find("clinic", tmp_path), "no token")
    assert "clinic: joined" in doctor(), "what was tried is told everywhere"


@pytest.mark.usefixtures("line")
def test_the_sites_doctor_tells_why_it_could_not_join(
    coordinator: Coordinator, home: SiteHome, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token(site: str = "clinic", **changes: Any) -> str:
        made = coordinator.invitations.invite(site, URL, None)
        return Invitation(**{**vars(made), **changes}).to_text()

    def refused(text: str, kind: type[FolkmootError], code: str, says: str) -> None:
        with pytest.raises(kind):
            join(home, text)
        finding = doctor()["clinic: joined"]
        assert finding.state == "warning"
        assert f"({code})" in finding.detail
        assert says in finding.detail
        assert finding.remedy
        assert text not in (home.private / "join-failed.json").read_text()

    refused("no token", ConfigError, "config.invalid", "is not an invitation")
    refused(token("other"), ConfigError, "config.invalid", "invites other")
    refused(token(expires=1), ConfigError, "config.invalid", "has expired")
    secret = "ab" * 24
    refused(token(secret=secret), ProtocolError, "protocol.refused", "does not count here, or was")
    kept = home.private / "join-failed.json"
    assert secret not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    assert set(doctor()) == {"clinic: joined"}, "nothing is joined yet"
    with monkeypatch.context() as away:
        away.setattr(joining, "_asked", _unreachable)
        refused(token(), TransientError, "transient.service", "cannot be reached")

    good = token()
    assert join(home, good)["federation"] == "demo"
    assert not kept.exists()
    assert failed_join(home) is None
    monkeypatch.setattr("site_tasks.health.hello", _hello)
    assert set(doctor()) == {"clinic: coordinator"}
    # The used token, once more: told for a day, as the site has a coordinator.
    refused(good, ProtocolError, "protocol.refused", "or was used")
    assert coordinator.told()["clinic", "join-used"] == 1
    told = json.loads(kept.read_text())
    kept.write_text(json.dumps({**told, "time": time.time() - 25 * 3600}))
    assert set(doctor()) == {"clinic: coordinator"}
    coordinator_file(home).unlink()
    assert "or was used" in doctor()["clinic: joined"].detail


def test_a_damaged_or_unwritable_note_is_in_nobodys_way(home: SiteHome, doctor: Doctor) -> None:
    kept = home.private / "join-failed.json"
    kept.write_text("[1")
    assert "has not joined" in doctor()["clinic: joined"].detail
    kept.unlink()
    kept.mkdir()
    with pytest.raises(ConfigError, match="is not an invitation"):
        join(home, "no token")


def _unreachable(visit: Visit, *_: Any, **__: Any) -> Any:
    raise joining._unreachable(visit, OSError())


def _hello(visit: Visit) -> dict[str, Any]:
    return {"federation": "demo", "sites": ["clinic"], "skew": 0.0}
