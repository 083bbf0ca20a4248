"""Downloads: once, checked by md5, and clear where they fail.  The server is on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from folkmoot.errors import ConfigError, DataError
from folkmoot.params import parse_params
from pipelines.recipes.sources import source_files

DATA = parse_params({"data": {"recipe": "heart"}}).data
CONTENT = b"1,2,3\n" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "rows.data").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOLKMOOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FOLKMOOT_DATA", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def test_a_file_is_downloaded_once(server: str, cache: Path, tmp_path: Path) -> None:
    published = {"rows.data": (f"{server}/rows.data", MD5)}
    path = source_files(DATA, published)["rows.data"]
    assert path == cache / "heart" / "rows.data"
    assert path.read_bytes() == CONTENT
    (tmp_path / "published" / "rows.data").unlink()
    assert source_files(DATA, published)["rows.data"] == path


def test_a_damaged_cache_is_downloaded_again(server: str, cache: Path) -> None:
    published = {"rows.data": (f"{server}/rows.data", MD5)}
    path = source_files(DATA, published)["rows.data"]
    path.write_bytes(CONTENT[:-1])
    assert source_files(DATA, published)["rows.data"].read_bytes() == CONTENT


def test_another_md5_than_published_is_refused(server: str, cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        source_files(DATA, {"rows.data": (f"{server}/rows.data", "0" * 32)})
    assert caught.value.code == "data.digest"
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("missing", ["gone", "closed"])
def test_a_download_that_fails_names_the_way_out(server: str, cache: Path, missing: str) -> None:
    url = f"{server}/absent.data" if missing == "gone" else "http://127.0.0.1:9/rows.data"
    with pytest.raises(ConfigError) as caught:
        source_files(DATA, {"rows.data": (url, MD5)})
    assert caught.value.code == "config.network"
    assert "data.path" in caught.value.remedy
    assert not [path for path in cache.rglob("*") if path.is_file()]
