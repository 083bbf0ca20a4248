"""Who comes in: tokens, members, invitations, rates."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import ConfigError, ProtocolError
from folkmoot.identity import public_text
from folkmoot.identity.invitation import Invitation
from folkmoot.identity.tokens import AUDIENCE, LEEWAY, LIFETIME, Refused, read_token, site_token
from pipelines.guard import asgi
from pipelines.guard.join import Invitations
from pipelines.guard.limits import Limits, Once, Rates
from pipelines.guard.sites import Member, Sites

from .conftest import TI_A, Door

PATH = "/exchange/v1/demo/runs/run-1/run.json"


def reason(door: Door, token: str | None) -> str:
    answer = door.send(door.guard(), "GET", PATH, token=token)
    assert not door.through
    assert answer.status_code == 401
    assert abs(answer.json()["time"] - time.time()) < 5
    return str(answer.json()["reason"])


def test_tokens_that_do_not_count_say_why(door: Door) -> None:
    key, now = door.keys["site-a"], time.time()
    late, early = now - LIFETIME - LEEWAY - 5, now + LEEWAY + 5
    assert reason(door, site_token("site-a", key, "GET", PATH, now=late)) == "expired"
    assert reason(door, site_token("site-a", key, "GET", PATH, now=early)) == "not-yet"
    assert reason(door, site_token("site-a", key, "GET", PATH, audience="api")) == "audience"
    assert reason(door, site_token("stranger", key, "GET", PATH)) == "unknown-site"
    assert reason(door, site_token("site-b", key, "GET", PATH)) == "signature"
    assert reason(door, site_token("site-a", key, "PATCH", PATH)) == "bound"
    assert reason(door, site_token("site-a", key, "GET", f"{PATH}x")) == "bound"
    assert reason(door, None) == "malformed"
    assert reason(door, "a.b.c") == "malformed"


def test_a_token_cannot_name_its_own_rules(door: Door) -> None:
    """Algorithms of the attacker's choice, long lives, another subject, claims left out."""
    key, now = door.keys["site-a"], int(time.time())
    public = bytes.fromhex(public_text(key))
    whole = {
        "sub": "site-a",
        "aud": AUDIENCE,
        "iat": now,
        "nbf": now,
        "exp": now + 60,
        "jti": "1",
        "htm": "GET",
        "htu": PATH,
    }
    kid = {"kid": "site-a"}
    assert reason(door, jwt.encode(whole, "", algorithm="none", headers=kid)) == "malformed"
    confused = jwt.encode(whole, public, algorithm="HS256", headers=kid)
    assert reason(door, confused) == "malformed"
    for change in ({"exp": now + 10**6}, {"sub": "site-b"}, {"htm": 1}):
        token = jwt.encode({**whole, **change}, key, algorithm="EdDSA", headers=kid)
        assert reason(door, token) == "malformed"
    for name in whole:
        left = {k: v for k, v in whole.items() if k != name}
        token = jwt.encode(left, key, algorithm="EdDSA", headers=kid)
        assert reason(door, token) == "malformed"
    with pytest.raises(Refused):
        read_token(jwt.encode(whole, key, algorithm="EdDSA"), door.sites.keys)


def test_a_token_counts_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    guard, token = door.guard(), door.token("site-a", "GET", PATH)
    assert door.send(guard, "GET", PATH, token=token).status_code == 200
    assert door.send(guard, "GET", PATH, token=token).json()["reason"] == "replay"
    monkeypatch.setattr(asgi.Once, "first", lambda *_: True)
    assert door.send(guard, "GET", PATH, token=token).status_code == 200


def test_numbers_are_forgotten_when_they_expire() -> None:
    now = [1000.0]
    once = Once(lambda: now[0])
    assert once.first("site-a", "1", 1010.0)
    assert once.first("site-b", "1", 1010.0)
    assert not once.first("site-a", "1", 1010.0)
    now[0] = 1020.0
    assert once.first("site-a", "2", 1090.0)
    assert len(once._seen) == 1


def test_a_site_that_asks_too_often_waits_and_others_do_not(door: Door) -> None:
    guard = door.guard(limits=Limits(rate=0.001, burst=3))
    codes = [door.send(guard, "GET", PATH, site="site-a").status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    assert door.send(guard, "GET", PATH, site="site-b").status_code == 200
    now = [0.0]
    rates = Rates(2.0, 1.0, lambda: now[0])
    assert [rates.take("a"), rates.take("a")] == [True, False]
    now[0] = 0.5
    assert rates.take("a")


def test_so_many_requests_are_with_airflow_at_once(door: Door) -> None:
    """More than its database has connections would wait for each other; uploads need none."""
    fetch, put = (
        "/edge_worker/v1/jobs/fetch/site-a",
        PATH.replace("run.json", "round-001/update-site-a"),
    )
    inside: dict[str, int] = {"now": 0, "most": 0, "uploads": 0}

    async def run() -> list[int]:
        full = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            upload = scope["path"] == put
            inside["uploads" if upload else "now"] += 1
            inside["most"] = max(inside["most"], inside["now"])
            if upload:
                full.set()  # it came through while all places were taken
            await full.wait()
            inside["now"] -= not upload
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        guard = door.guard(limits=Limits(inside=3))
        guard.app = app
        transport = httpx.ASGITransport(guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://c") as client:

            async def ask(method: str, path: str, **arguments: Any) -> int:
                headers = {"authorization": f"Bearer {door.token('site-a', method, path)}"}
                headers |= arguments.pop("headers", {})
                return (
                    await client.request(method, path, headers=headers, **arguments)
                ).status_code

            body = {"queues": ["site-site-a"]}
            polls = [asyncio.create_task(ask("POST", fetch, json=body)) for _ in range(20)]
            while inside["now"] < 3:
                await asyncio.sleep(0)
            part = {"upload-offset": "0", "upload-length": "1", "repr-digest": "sha-256=:AAAA:"}
            polls.append(asyncio.create_task(ask("PATCH", put, headers=part, content=b"a")))
            return await asyncio.gather(*polls)

    assert asyncio.run(asyncio.wait_for(run(), 20)) == [200] * 21
    assert inside == {"now": 0, "most": 3, "uploads": 1}


def test_a_task_token_works_for_tasks_in_a_members_queue_alone(door: Door) -> None:
    path = f"/execution/task-instances/{TI_A}/heartbeat"
    body = {"hostname": "a", "pid": 1}
    guard = door.guard()
    assert door.send(guard, "PUT", path, token="x", json=body).json()["reason"] == "task-token"
    coordinators = "0198c2aa-0000-7000-8000-00000000000c"
    answer = door.send(guard, "PUT", path.replace(TI_A, coordinators), task=coordinators, json=body)
    assert answer.json()["reason"] == "task-queue"
    assert not door.through
    assert door.send(guard, "PUT", path, task=TI_A, json=body).status_code == 200


def test_a_site_that_is_shut_out_is_out_at_its_next_request(door: Door) -> None:
    guard = door.guard()
    path = f"/execution/task-instances/{TI_A}/heartbeat"
    body = {"hostname": "a", "pid": 1}
    assert door.send(guard, "GET", PATH, site="site-a").status_code == 200
    assert door.send(guard, "PUT", path, task=TI_A, json=body).status_code == 200
    assert Sites(door.sites.path).remove("site-a")  # by another process
    assert door.send(guard, "GET", PATH, site="site-a").json()["reason"] == "unknown-site"
    refused = door.send(guard, "PUT", path, task=TI_A, json=body)
    assert refused.json()["reason"] == "task-queue"


def test_members_are_kept_privately_and_a_damaged_file_lets_nobody_in(door: Door) -> None:
    assert stat.S_IMODE(door.sites.path.stat().st_mode) == 0o600
    (key,) = [k for k in door.sites.jwks()["keys"] if k["kid"] == "site-a"]
    assert jwt.PyJWK(key).key.public_bytes_raw().hex() == door.sites.keys["site-a"]
    with pytest.raises(ConfigError, match="another key"):
        door.sites.add("site-a", Member("0" * 64))
    with pytest.raises(ConfigError, match="malformed"):
        door.sites.add("../a", Member("0" * 64))
    door.sites.path.write_text('{"site-a": ')
    assert reason(door, door.token("site-a", "GET", PATH)) == "unknown-site"


# Joining --------------------------------------------------------------------------------------


def test_an_invitation_lets_one_key_in_once(tmp_path: Path) -> None:
    sites = Sites(tmp_path / "sites.json")
    invitations = Invitations(tmp_path / "invitations.json", sites, {"federation": "demo"})
    token = invitations.invite("clinic", "https://c:8443", "PEM").to_text()
    secret = Invitation.from_text(token).secret
    assert secret not in (tmp_path / "invitations.json").read_text()
    invitation = Invitation.from_text(token)
    assert (invitation.site, invitation.url, invitation.certificate) == (
        "clinic",
        "https://c:8443",
        "PEM",
    )
    assert secret not in repr(invitation)
    key, thief = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    answer = invitation.answer(key)
    for change in (
        {"key": public_text(thief)},  # a key that the sender does not hold
        {"site": "other"},
        {"secret": "00" * 24},
        {"proof": "zz"},
        {"site": None},
    ):
        with pytest.raises(ProtocolError):
            invitations.accept({**answer, **change})
    assert not sites.members
    assert invitations.accept(answer) == {"federation": "demo", "site": "clinic"}
    assert sites.keys == {"clinic": public_text(key)}
    with pytest.raises(ProtocolError, match="was used"):
        invitations.accept(answer)
    with pytest.raises(ProtocolError, match="was used"):
        invitations.accept(invitation.answer(thief))


def test_an_invitation_expires(tmp_path: Path) -> None:
    invitations = Invitations(tmp_path / "i.json", Sites(tmp_path / "s.json"))
    invitation = invitations.invite("clinic", "https://c", None, hours=-0.1)
    with pytest.raises(ProtocolError, match="expired"):
        invitations.accept(invitation.answer(Ed25519PrivateKey.generate()))


def test_a_new_invitation_replaces_the_one_before_and_no_key_is_replaced(tmp_path: Path) -> None:
    sites = Sites(tmp_path / "s.json")
    invitations = Invitations(tmp_path / "i.json", sites)
    first = invitations.invite("clinic", "https://c", None)
    second = invitations.invite("clinic", "https://c", None)
    key = Ed25519PrivateKey.generate()
    with pytest.raises(ProtocolError, match="was used"):
        invitations.accept(first.answer(key))
    invitations.accept(second.answer(key))
    third = invitations.invite("clinic", "https://c", None)
    with pytest.raises(ProtocolError, match="another key"):
        invitations.accept(third.answer(Ed25519PrivateKey.generate()))
    assert json.loads((tmp_path / "i.json").read_text())  # it was not used up


@pytest.mark.parametrize("text", ["", "hello", "folkmoot-join-1.eJw", "folkmoot-join-1.@@"])
def test_a_text_that_is_no_token_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="not an invitation"):
        Invitation.from_text(text)
