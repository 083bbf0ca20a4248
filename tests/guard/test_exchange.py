"""The exchange store over HTTPS: the site's store against the coordinator's app behind the guard."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from folkmoot import exchange_https
from folkmoot.errors import ConfigError, ProtocolError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.exchange_https import HttpsBackend
from folkmoot.identity.visit import Visit
from pipelines.guard import shelf as shelf_module
from pipelines.guard.exchange import exchange_app
from pipelines.guard.join import Invitations

from .conftest import Door, TestClient

RUN = "demo/runs/run-1"
MINE = f"{RUN}/round-001/update-site-a"


class Line(TestClient):
    """The network, which a test may cut."""

    cut: list[str] = []

    def request(self, method: str, url: Any, **arguments: Any) -> httpx.Response:
        if self.cut and self.cut[0] == method:
            self.cut.pop(0)
            raise httpx.ConnectError("cut")
        return super().request(method, url, **arguments)


@pytest.fixture
def shared(door: Door, tmp_path: Path) -> Iterator[tuple[ExchangeStore, Any]]:
    """The coordinator's store with an open run, and a maker of a site's view of it."""
    store = ExchangeStore(tmp_path / "exchange")
    federation = {"sites": ["site-a", "site-b"]}
    store.put(f"{RUN}/run.json", json.dumps({"params": {"federation": federation}}).encode())
    inner = exchange_app(store, tmp_path / "exchange" / ".uploads", facts={"federation": "demo"})
    app = Starlette(routes=[Mount("/exchange", inner)])
    guard = door.guard()
    guard.app = app
    lines = []

    def view(site: str) -> ExchangeStore:
        folder = tmp_path / site / "private"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "signing.key").write_bytes(door.keys[site].private_bytes_raw())
        backend = HttpsBackend("https://c/exchange/v1", Visit(site, "https://c", folder))
        line = Line(guard, base_url="https://c")
        line.cut = []
        lines.append(line)
        backend._open = line
        seen = ExchangeStore(tmp_path)
        seen._backend = backend
        return seen

    yield store, view
    for line in lines:
        line.close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_https.time, "sleep", lambda _: None)


def test_a_site_sees_the_same_store(shared: Any) -> None:
    store, view = shared
    site = view("site-a")
    ref = site.put(MINE, b"update")
    assert ref == store.ref(MINE) == site.ref(MINE)
    assert site.put(MINE, b"update") == ref, "the same bytes again are welcome"
    with pytest.raises(ProtocolError, match="Another artefact"):
        site.put(MINE, b"other")
    assert site.find(f"{RUN}/round-002/update-site-a") is None
    store.put(f"{RUN}/round-001/model", b"model" * 1000)
    assert site.get(f"{RUN}/round-001/model") == b"model" * 1000
    with pytest.raises(ProtocolError, match="cannot list"):
        site.list(RUN)
    assert not list((store.path(MINE).parents[4] / ".uploads").rglob("*/*"))


def test_what_never_changes_is_asked_for_once(
    shared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process in its memory; by later ones in the folder that the worker names."""
    store, view = shared
    store.put(f"{RUN}/round-001/model", b"model")
    monkeypatch.setenv("FOLKMOOT_EXCHANGE_MEMORY", str(tmp_path / "memory"))
    for number in range(2):
        site = view("site-a")
        asked: list[Any] = []
        line = site._backend._open
        line.event_hooks["request"].append(lambda request, asked=asked: asked.append(request.url))
        for _ in range(2):
            assert site.get(f"{RUN}/run.json") == store.get(f"{RUN}/run.json")
            assert site.get(f"{RUN}/round-001/model") == b"model"
            assert site.find(f"{RUN}/round-001/record.json") is None
        paths = [url.path.rsplit("/", 1)[1] for url in asked]
        absent = ["record.json"] * 2
        assert sorted(paths) == sorted(["model", *absent, *(["run.json"] if number == 0 else [])])


def test_a_site_cannot_reach_another_sites_artefacts(shared: Any) -> None:
    store, view = shared
    store.put(f"{RUN}/round-001/update-site-b", b"of b")
    site = view("site-a")
    for key in (f"{RUN}/round-001/update-site-b", f"{RUN}/round-001/model"):
        with pytest.raises(ProtocolError) as caught:
            site.put(key, b"forged")
        assert caught.value.code == "protocol.refused"
    with pytest.raises(ProtocolError, match=r"exchange-read"):
        site.get(f"{RUN}/round-001/update-site-b")
    assert store.get(f"{RUN}/round-001/update-site-b") == b"of b"
    assert store.find(f"{RUN}/round-001/model") is None


def test_runs_that_are_not_open_to_the_site_are_closed(shared: Any) -> None:
    store, view = shared
    site = view("site-a")
    with pytest.raises(ProtocolError, match="no open run"):
        site.put("demo/runs/absent/round-001/update-site-a", b"x")
    store.put("demo/runs/others/run.json", b'{"params": {"federation": {"sites": ["site-b"]}}}')
    with pytest.raises(ProtocolError, match="no open run"):
        site.get("demo/runs/others/run.json")


def test_an_upload_that_was_cut_off_goes_on(
    shared: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store, view = shared
    monkeypatch.setattr(exchange_https, "PART", 1000)
    data = os.urandom(3500)
    site = view("site-a")
    line = site._backend._open
    sent: list[int] = []
    send = line.request

    def counted(method: str, url: Any, **arguments: Any) -> httpx.Response:
        sent.append(int(arguments["headers"]["upload-offset"]))
        if len(sent) == 3:
            raise httpx.ReadError("cut")
        return send(method, url, **arguments)

    monkeypatch.setattr(line, "request", counted)
    site.put(MINE, data)
    assert sent == [0, 1000, 2000, 2000, 3000]
    assert store.get(MINE) == data
    # A process that was killed in between starts from the beginning, and is told where it was.
    other = f"{RUN}/round-002/update-site-a"
    part = tmp_path / "exchange" / ".uploads" / "site-a"
    digest = hashlib.sha256(data).hexdigest()
    (part / hashlib.sha256(f"{other}\n{digest}".encode()).hexdigest()).write_bytes(data[:1500])
    sent.clear()
    site.put(other, data)
    assert sent == [0, 1500, 2500, 2500]
    assert store.get(other) == data


def test_what_was_cut_off_is_not_there_for_anybody(shared: Any, tmp_path: Path) -> None:
    store, view = shared
    site, data = view("site-a"), b"a" * 100
    digest = shelf_module.structured(hashlib.sha256(data).hexdigest())
    headers = {"repr-digest": digest, "upload-offset": "0", "upload-length": "100"}
    answer = site._backend._send("PATCH", MINE, headers=headers, content=data[:60])
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "60")
    assert store.find(MINE) is None
    assert site.find(MINE) is None
    seen = site._backend._send("HEAD", MINE, headers={"repr-digest": digest})
    assert seen.headers["upload-offset"] == "60"
    # Other bytes do not complete it.
    headers |= {"upload-offset": "60"}
    with pytest.raises(ProtocolError, match="digest"):
        site._backend._send("PATCH", MINE, headers=headers, content=b"b" * 40)
    assert store.find(MINE) is None
    assert not list((tmp_path / "exchange" / ".uploads" / "site-a").iterdir())


def test_more_bytes_than_were_said_are_refused(shared: Any) -> None:
    store, view = shared
    site = view("site-a")
    for length, offset in (("3", "0"), ("10", "8")):
        digest = shelf_module.structured(hashlib.sha256(b"abcd").hexdigest())
        headers = {"repr-digest": digest, "upload-length": length, "upload-offset": offset}
        with pytest.raises(ProtocolError) as caught:
            site._backend._send("PATCH", MINE, headers=headers, content=b"abcd")
        assert caught.value.code == "protocol.refused"
    assert store.find(MINE) is None


def test_a_download_that_was_cut_off_goes_on(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, view = shared
    data = os.urandom(100_000)
    store.put(f"{RUN}/round-001/model", data)
    site = view("site-a")
    ranges: list[str] = []
    stream = site._backend._streamed

    class Cut:
        def __init__(self, answer: Any, first: bool) -> None:
            self.answer, self.first = answer, first

        def __enter__(self) -> Cut:
            self.inner = self.answer.__enter__()
            return self

        def __exit__(self, *_: Any) -> None:
            self.answer.__exit__(None, None, None)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def iter_raw(self) -> Iterator[bytes]:
            whole = b"".join(self.inner.iter_raw())
            if not self.first:
                yield whole
                return
            yield whole[:40_000]
            raise httpx.ReadError("cut")

    def streamed(key: str, headers: dict[str, str]) -> Any:
        ranges.append(headers.get("range", ""))
        return Cut(stream(key, headers), len(ranges) == 1)

    monkeypatch.setattr(site._backend, "_streamed", streamed)
    assert site.get(f"{RUN}/round-001/model") == data
    assert ranges == ["", "bytes=40000-"]


def test_bytes_that_change_on_the_way_are_found(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, view = shared
    store.put(f"{RUN}/round-001/model", b"model")
    monkeypatch.setattr(shelf_module, "_hash", lambda _: "0" * 64)
    with pytest.raises(ProtocolError, match="another digest"):
        view("site-a").get(f"{RUN}/round-001/model")


def test_a_line_that_stays_cut_is_told_as_passing(shared: Any) -> None:
    _, view = shared
    site = view("site-a")
    site._backend._open.cut = ["PATCH"] * exchange_https.ATTEMPTS
    with pytest.raises(TransientError, match="can be repeated"):
        site.put(MINE, b"x")


def test_a_full_disk_is_told_and_nothing_is_published(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, view = shared

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(TransientError):
        view("site-a").put(MINE, b"x")
    assert store.find(MINE) is None


def test_the_app_serves_nobody_without_the_guard(tmp_path: Path) -> None:
    store = ExchangeStore(tmp_path / "exchange")
    store.put(f"{RUN}/run.json", b"{}")
    with TestClient(exchange_app(store, tmp_path / "parts")) as client:
        assert client.get(f"/v1/{RUN}/run.json", headers={"folkmoot.site": "a"}).status_code == 401
        assert client.patch(f"/v1/{MINE}").status_code == 401
        assert client.get("/hello").status_code == 401
        assert client.get("/health").json()["status"] == "guarded"
        assert client.post("/join", json={"site": "x"}).status_code == 403


def test_abandoned_parts_are_swept(shared: Any, tmp_path: Path) -> None:
    _, view = shared
    folder = tmp_path / "exchange" / ".uploads" / "site-a"
    folder.mkdir(parents=True)
    old = folder / "old"
    old.write_bytes(b"x")
    os.utime(old, (time.time() - 30 * 86400,) * 2)
    view("site-a").put(MINE, b"x")
    assert not old.exists()


def test_an_artefact_is_never_shown_as_a_page(shared: Any) -> None:
    _, view = shared
    site = view("site-a")
    site.put(MINE, b"<script>")
    answer = site._backend._send("GET", MINE)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_another_coordinator_than_the_one_joined_is_refused(tmp_path: Path) -> None:
    visit = Visit("site-a", "https://c", tmp_path)
    with pytest.raises(ConfigError, match="not at the coordinator"):
        HttpsBackend("https://elsewhere/exchange/v1", visit)
    with pytest.raises(ConfigError, match="has not joined"):
        ExchangeStore("https://c/exchange/v1")


def test_joining_over_the_wire(door: Door, tmp_path: Path) -> None:
    door.sites.remove("site-a")
    invitations = Invitations(tmp_path / "invitations.json", door.sites, {"federation": "demo"})
    invitation = invitations.invite("site-a", "https://c", None)
    guard = door.guard()
    inner = exchange_app(ExchangeStore(tmp_path / "e"), tmp_path / "p", invitations)
    guard.app = Starlette(routes=[Mount("/exchange", inner)])
    answer = invitation.answer(door.keys["site-a"])
    with TestClient(guard, base_url="https://c") as client:
        assert client.get("/exchange/health").json()["status"] == "guarded"
        assert client.post("/exchange/join", json=answer).json()["federation"] == "demo"
        assert client.post("/exchange/join", json=answer).status_code == 403
        visit = Visit("site-a", "https://c", tmp_path)
        (tmp_path / "signing.key").write_bytes(door.keys["site-a"].private_bytes_raw())
        assert visit.request(client, "GET", "/exchange/hello").json()["site"] == "site-a"
