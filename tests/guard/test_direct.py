"""Large artefacts from the S3 store itself: a real S3 endpoint, the exchange app behind the guard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from folkmoot.errors import ConfigError, ProtocolError
from folkmoot.exchange import ExchangeStore
from folkmoot.exchange_direct import Stores
from folkmoot.exchange_https import HttpsBackend
from folkmoot.identity.visit import Visit
from pipelines.guard.exchange import exchange_app
from pipelines.guard.staging import LINKED

from .conftest import Door, TestClient

RUN = "demo/runs/run-1"
MODEL, RECORD, THEIRS = (f"{RUN}/round-001/{n}" for n in ("model", "record.json", "update-site-b"))
LARGE = b"model" * 1000
MINE = f"{RUN}/round-001/update-site-a"
UPDATE = bytes(range(256)) * 4097
ABOVE = 1000


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Host and port of an S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"{host}:{port}"
        server.stop()


@pytest.fixture
def store(endpoint: str, tmp_path: Path) -> ExchangeStore:
    """The coordinator's store with an open run and a large model."""
    import s3fs

    options: dict[str, Any] = {"endpoint_url": f"http://{endpoint}"}
    s3fs.S3FileSystem(**options).makedirs("direct", exist_ok=True)
    made = ExchangeStore(f"s3://direct/{tmp_path.name}", options)
    federation = {"sites": ["site-a", "site-b"]}
    made.put(f"{RUN}/run.json", json.dumps({"params": {"federation": federation}}).encode())
    made.put(MODEL, LARGE)
    made.put(RECORD, b"{}")
    made.put(THEIRS, LARGE)
    return made


@pytest.fixture
def view(
    door: Door, store: ExchangeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[ExchangeStore, list[int]]]]:
    """Maker of a site's view, and of the list of the coordinator's answers to it."""
    lines: list[TestClient] = []

    def made(stores: str = "", direct: int | None = ABOVE) -> tuple[ExchangeStore, list[int]]:
        app = exchange_app(store, tmp_path / "uploads", direct=direct)
        guard = door.guard()
        guard.app = Starlette(routes=[Mount("/exchange", app)])
        folder = tmp_path / "site-a"
        folder.mkdir(exist_ok=True)
        (folder / "signing.key").write_bytes(door.keys["site-a"].private_bytes_raw())
        monkeypatch.setenv("FOLKMOOT_STORES", stores)
        backend = HttpsBackend("https://c/exchange/v1", Visit("site-a", "https://c", folder))
        line = TestClient(guard, base_url="https://c", follow_redirects=False)
        answers: list[int] = []
        line.event_hooks["response"].append(lambda answer: answers.append(answer.status_code))
        lines.append(line)
        backend._open = line
        seen = ExchangeStore(tmp_path)
        seen._backend = backend
        return seen, answers

    yield made
    for line in lines:
        line.close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("folkmoot.exchange_https.time.sleep", lambda _: None)


def left(store: ExchangeStore) -> list[str]:
    """What lies in the places of uploads."""
    fs, root = store.files()
    return [str(path) for path in fs.find(f"{root}/.uploads")]


def test_a_large_artefact_comes_from_the_store_itself(
    view: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, answers = view(stores=endpoint)
    asked: list[httpx.Request] = []
    client = site._backend._stores._client
    client.event_hooks["request"].append(asked.append)
    assert site.get(MODEL) == LARGE
    assert answers == [307]
    assert (asked[0].url.netloc.decode(), len(asked)) == (endpoint, 1)
    assert "authorization" not in asked[0].headers, "the site's token is the coordinator's alone"
    assert site.get(RECORD) == b"{}"
    assert answers[1:] == [200], "what is small comes from the coordinator"


def test_nothing_changes_where_either_side_does_not_ask_for_it(view: Any, endpoint: str) -> None:
    for stores, direct in (("", ABOVE), (endpoint, None), (endpoint, len(LARGE))):
        site, answers = view(stores=stores, direct=direct)
        assert site.get(MODEL) == LARGE
        assert answers == [200]


def test_a_site_that_cannot_or_may_not_reach_the_store_reads_from_the_coordinator(
    view: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, answers = view(stores="other.example:443")
    assert elsewhere.get(MODEL) == LARGE
    assert answers == [307, 200]
    cut, answers = view(stores=endpoint)
    monkeypatch.setattr(Stores, "permits", lambda *_: True)
    monkeypatch.setattr(
        "pipelines.guard.shelf.Shelf._link",
        lambda *_: {"location": "http://127.0.0.1:9/x", "repr-digest": "", "upload-length": "5"},
    )
    assert cut.get(MODEL) == LARGE
    assert answers == [307, 200]


def test_what_differs_from_the_stated_digest_or_size_is_not_taken(
    view: Any, endpoint: str, store: ExchangeStore
) -> None:
    site, _ = view(stores=endpoint)
    url, size = store.link(MODEL, 60) or ("", 0)
    from pipelines.guard.shelf import structured

    good = structured(hashlib.sha256(LARGE).hexdigest())
    read = site._backend._stores.read
    stated = {"location": url, "repr-digest": good, "upload-length": str(size)}
    assert read(stated) == LARGE
    wrong = structured(hashlib.sha256(b"other").hexdigest())
    for change in (
        {"repr-digest": wrong},
        {"repr-digest": ""},
        {"upload-length": str(size - 1)},
        {"upload-length": str(size + 1)},
        {"upload-length": "-1"},
        {"location": url.replace("model", "modem")},
        {"location": ""},
    ):
        assert read({**stated, **change}) is None, change


def test_a_link_is_for_one_artefact_and_for_minutes(
    view: Any, endpoint: str, store: ExchangeStore
) -> None:
    url, _ = store.link(MODEL, LINKED) or ("", 0)
    query = {k.lower(): v[0] for k, v in parse_qs(urlsplit(url).query).items()}
    assert query["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    assert int(query["x-amz-expires"]) == LINKED
    assert store.link(f"{RUN}/round-009/model", LINKED) is None
    site, answers = view(stores=endpoint)
    with pytest.raises(ProtocolError, match="exchange-read"):
        site.get(THEIRS)
    assert answers == [403], "another site's update is linked to nobody"


def test_a_large_upload_goes_by_way_of_the_store(
    view: Any, store: ExchangeStore, endpoint: str
) -> None:
    site, answers = view(stores=endpoint)
    put: list[httpx.Request] = []
    site._backend._stores._client.event_hooks["request"].append(put.append)
    ref = site.put(MINE, UPDATE)
    assert answers == [307, 201]
    assert store.ref(MINE) == ref
    query = {k.lower(): v[0] for k, v in parse_qs(put[0].url.query.decode()).items()}
    assert query["x-amz-signedheaders"] == "content-length;host", "no more than it said"
    assert int(query["x-amz-expires"]) == LINKED
    assert "authorization" not in put[0].headers
    assert f"/{RUN}/" not in put[0].url.path, "never where an artefact is published"
    assert left(store) == [], "nothing stays behind"
    assert site.put(MINE, UPDATE) == ref, "the same bytes again are welcome"
    with pytest.raises(ProtocolError, match="Another artefact"):
        site.put(MINE, UPDATE[::-1])
    assert store.get(MINE) == UPDATE
    small = site.put(f"{RUN}/round-002/update-site-a", b"small")
    assert (answers[-1], small.size) == (201, 5)
    assert [request.method for request in put].count("PUT") == 3


def test_uploads_that_the_store_does_not_take_go_to_the_coordinator(
    view: Any, store: ExchangeStore, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{RUN}/round-{number:03d}/update-site-a" for number in range(1, 6)]
    plain, answers = view(stores=endpoint, direct=None)
    plain.put(keys[0], UPDATE)
    assert answers == [204, 201], "the coordinator offers nothing"
    shut, answers = view(stores="other.example")
    shut.put(keys[1], UPDATE)
    assert answers == [307, 201], "the steward named another host"

    def short(self: Stores, headers: Any, data: bytes) -> bool:
        return self._client.put(headers["location"], content=data[:-1]).is_success

    def other(self: Stores, headers: Any, data: bytes) -> bool:
        return self._client.put(headers["location"], content=bytes(len(data))).is_success

    for key, wrong in zip(keys[2:], (short, other, lambda *_: True), strict=True):
        monkeypatch.setattr(Stores, "write", wrong)
        site, answers = view(stores=endpoint)
        site.put(key, UPDATE)
        assert answers == [307, 409, 201], "what lay there was another thing"
    assert {store.get(key) for key in keys} == {UPDATE}
    assert left(store) == []


def test_what_is_put_in_a_place_later_changes_nothing(
    view: Any, store: ExchangeStore, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link outlives its upload by minutes; what it then brings is nobody's artefact."""
    links: list[str] = []
    write = Stores.write

    def noted(self: Stores, headers: Any, data: bytes) -> bool:
        links.append(headers["location"])
        return write(self, headers, data)

    monkeypatch.setattr(Stores, "write", noted)
    site, _ = view(stores=endpoint)
    site.put(MINE, UPDATE)
    assert httpx.put(links[0], content=UPDATE[::-1]).is_success
    assert store.get(MINE) == UPDATE
    names = {urlsplit(link).path for link in links}
    for number in range(8):
        site.put(f"{RUN}/round-{number + 2:03d}/update-site-a", UPDATE + bytes([number]))
        names.add(urlsplit(links[-1]).path)
    assert len(names) == 2, "a site has two places, whatever it asks for"


def test_a_site_gets_no_link_for_what_it_may_not_write(view: Any, endpoint: str) -> None:
    site, answers = view(stores=endpoint)
    for key in (THEIRS, MODEL, "demo/runs/run-2/round-001/update-site-a"):
        with pytest.raises(ProtocolError):
            site.put(key, UPDATE)
    assert set(answers) == {403}


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://s3.example.org/b/k", True),
        ("https://S3.example.org:443/b/k", True),
        ("https://s3.example.org:8443/b/k", False),
        ("https://minio.example.org:9000/b/k", True),
        ("https://minio.example.org/b/k", False),
        ("http://s3.example.org/b/k", False),
        ("https://s3.example.org.evil.org/b/k", False),
        ("https://s3.example.org@evil.org/b/k", False),
        ("https://user:word@s3.example.org/b/k", False),
        ("https://10.0.0.1/b/k", False),
        ("file:///etc/passwd", False),
        ("https://[bad/b", False),
        ("//s3.example.org/b", False),
    ],
)
def test_a_link_leads_to_hosts_that_the_steward_named(url: str, good: bool, tmp_path: Path) -> None:
    visit = Visit("site-a", "https://c", tmp_path)
    assert Stores(["s3.example.org", "minio.example.org:9000"], visit).permits(url) is good


def test_stores_that_give_no_links_are_refused_at_the_start(tmp_path: Path) -> None:
    from folkmoot.params import parse_params
    from pipelines.hosts.airflow_coordinator import Coordinator
    from pipelines.hosts.server_settings import ServerSettings

    assert ExchangeStore(tmp_path / "x").link(MODEL, 60) is None
    assert ExchangeStore("memory://x").link(MODEL, 60) is None
    settings = ServerSettings(direct_above=ABOVE)
    with pytest.raises(ConfigError, match="direct_above"):
        Coordinator(parse_params({}), tmp_path, settings)._guard_settings()
    params = parse_params({"federation": {"exchange": "s3://bucket/prefix"}})
    assert Coordinator(params, tmp_path, settings)._guard_settings().direct == ABOVE
