"""The exchange store as a site sees it: the coordinator's, over HTTPS, with the site's own key.

The other end is ``pipelines.guard.exchange``.  Uploads and downloads that are cut off go on where
they stopped; what arrives is held to the digest that the coordinator states.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from folkmoot.errors import ConfigError, ProtocolError, TransientError
from folkmoot.exchange_direct import Stores
from folkmoot.exchange_memory import Memory
from folkmoot.identity.visit import Visit
from folkmoot.versions import apart

if TYPE_CHECKING:
    import httpx

__all__ = ["HttpsBackend", "refusal"]

#: Bytes of one request: what is sent again at most where a proxy on the way swallows it.
PART = 32 * 1024 * 1024
#: Together some two minutes: a coordinator that is started again is waited for.
ATTEMPTS, LONGEST = 20, 8.0
#: Artefacts of so many bytes are kept by the process that read them.
_SMALL = 1 << 20
#: Bytes that are handed to the line at once.
_PIECE = 256 * 1024


class HttpsBackend:
    """Reads and creates artefacts at ``https://host[:port]/exchange/v1``.

    Parameters
    ----------
    url : str
        Of the store.
    visit : Visit, optional
        How the site gets there; by default what ``FOLKMOOT_COORDINATOR`` names.
    """

    def __init__(self, url: str, visit: Visit | None = None) -> None:
        self._visit = visit or Visit.load()
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != self._visit.url:
            raise ConfigError(
                "config.invalid",
                f"federation.exchange: {url} is not at the coordinator that this site joined.",
                f"It is at {self._visit.url}: join again, or correct the address.",
            )
        self._root = parts.path.rstrip("/")
        self._open: httpx.Client | None = None
        self._read: dict[str, bytes] = {}
        self._memory, self._stores = Memory.named(), Stores.named(self._visit)

    def create(self, key: str, data: bytes, digest: str) -> bool:
        """Publish; False where something is published under the key."""
        total = len(data)
        offset = stuck = 0
        answer = self._put_elsewhere(key, data, digest)
        while True:
            if answer is None:
                answer = self._send_part(key, data, digest, offset, min(offset + PART, total))
            if answer.status_code == 201:
                return True
            if answer.status_code == 409 and not answer.content:
                return False
            if answer.status_code == 507:
                raise TransientError(
                    "transient.disk-full",
                    f"The coordinator has no space left for {key}; nothing was published.",
                    "Tell the coordinator; the step can be repeated and begins this upload anew.",
                )
            there = answer.headers.get("upload-offset", "")
            if not there.isdecimal() or answer.status_code not in {204, 408, 409}:
                raise _failed(key, f"status {answer.status_code}")
            stuck = 0 if int(there) > offset else stuck + 1
            offset = int(there)
            if offset > total or stuck == ATTEMPTS:
                raise _failed(key, "a wrong offset")
            answer = None

    def _put_elsewhere(self, key: str, data: bytes, digest: str) -> httpx.Response | None:
        """Upload by way of the coordinator's S3 store where both sides want it; the last answer.

        None where nothing was done; else the coordinator's answer says where to go on, as any does.
        """
        if self._stores is None or len(data) <= _SMALL:
            return None
        answer = self._send_part(key, data, digest, 0, 0, "redirect")
        if answer.status_code != 307:
            return answer
        if not self._stores.write(answer.headers, data):
            return None
        return self._send_part(key, data, digest, 0, 0, "fetch")

    def _send_part(
        self, key: str, data: bytes, digest: str, start: int, end: int, prefer: str = ""
    ) -> httpx.Response:
        headers = {
            "repr-digest": _structured(digest),
            "upload-offset": str(start),
            "upload-length": str(len(data)),
            "content-length": str(end - start),
            "content-type": "application/octet-stream",
            **({"prefer": prefer} if prefer else {}),
        }
        answer: httpx.Response = self._send(
            "PATCH", key, headers=headers, content=_Slices(data, start, end)
        )
        return answer

    def read(self, key: str) -> bytes | None:
        """The artefact, or None.  What is small is asked for once: no artefact ever changes."""
        if key not in self._read:
            data = None if self._memory is None else self._memory.find(key)
            if data is None:
                data = self._fetch(key)
                if data is None or len(data) > _SMALL:
                    return data
                if self._memory is not None:
                    self._memory.keep(key, data)
            self._read[key] = data
        return self._read[key]

    def _fetch(self, key: str) -> bytes | None:
        data, etag, failures, stores = b"", "", 0, self._stores
        while True:
            headers = {"range": f"bytes={len(data)}-", "if-range": etag} if data else {}
            if stores is not None and not data:
                headers["prefer"] = "redirect"
            try:
                with self._streamed(key, headers) as answer:
                    if answer.status_code == 404:
                        return None
                    if answer.status_code == 307 and stores is not None:
                        found = stores.read(answer.headers)
                        if found is not None:
                            return found
                        stores = None  # by the coordinator, then
                        continue
                    if answer.status_code == 200:
                        data = b""
                    elif answer.status_code != 206:
                        answer.read()
                        raise refusal(answer, key) or _failed(key, f"status {answer.status_code}")
                    etag, stated = answer.headers["etag"], answer.headers["repr-digest"]
                    chunks = [data]
                    try:
                        chunks.extend(answer.iter_raw())
                    finally:
                        data = b"".join(chunks)
            except self._errors() as error:
                failures += 1
                if failures == ATTEMPTS:
                    raise _failed(key, type(error).__name__) from None
                time.sleep(min(LONGEST, 0.2 * 2**failures))
                continue
            if _structured(hashlib.sha256(data).hexdigest()) != stated:
                raise ProtocolError(
                    "protocol.digest",
                    f"{key} arrived with another digest than the coordinator states.",
                    "Run the step again; where it happens again, see what changes bytes on the way.",
                )
            return data

    def names(self, folder: str) -> list[str]:
        """Sites read what they are referred to, and list nothing."""
        raise ProtocolError(
            "protocol.refused",
            f"A site cannot list {folder} of the exchange store.",
            "Run this at the coordinator.",
        )

    def _streamed(self, key: str, headers: dict[str, str]) -> Any:
        path = f"{self._root}/{key}"
        signed = {"authorization": f"Bearer {self._visit.token('GET', path)}", **headers}
        return self._client().stream("GET", path, headers=signed)

    def _send(self, method: str, key: str, **arguments: Any) -> Any:
        """Send a request again where the line was cut; refusals are raised."""
        path = f"{self._root}/{key}"
        for attempt in range(ATTEMPTS):
            try:
                answer = self._visit.request(self._client(), method, path, **arguments)
            except self._errors() as error:
                if attempt == ATTEMPTS - 1:
                    raise _failed(key, type(error).__name__) from None
                time.sleep(min(LONGEST, 0.2 * 2**attempt))
                continue
            if answer.status_code in {429, 502, 503, 504} and attempt < ATTEMPTS - 1:
                time.sleep(min(LONGEST, 0.5 * 2**attempt))
                continue
            refused = refusal(answer, key)
            if refused is not None:
                raise refused
            return answer
        raise AssertionError("unreachable")

    def _client(self) -> httpx.Client:
        if self._open is None:
            self._open = self._visit.client()
        return self._open

    @staticmethod
    def _errors() -> tuple[type[Exception], ...]:
        import httpx

        return (httpx.TransportError,)


#: What the guard's reasons mean to whoever runs the site.
_REASONS = {
    "unknown-site": (
        "does not know this site, or has shut it out",
        "Ask the coordinator for an invitation, then folkmoot site join SITE TOKEN.",
    ),
    "signature": (
        "knows this site by another key",
        "Ask the coordinator for a new invitation, then folkmoot site join SITE TOKEN.",
    ),
    "expired": (
        "takes this site's clock to be behind",
        "Set the clock of this machine (NTP) and try again.",
    ),
    "not-yet": (
        "takes this site's clock to be ahead",
        "Set the clock of this machine (NTP) and try again.",
    ),
    "bound": (
        "was reached under another path than this site used",
        "Let no proxy on the way rewrite paths.",
    ),
    "replay": ("saw this request before", "Try again; look for a proxy that repeats requests."),
    "queue": (
        "does not let this site take jobs of that queue",
        "The only queue of a site is site-NAME: start its worker with folkmoot site up.",
    ),
    "worker-name": (
        "does not let this site run a worker of that name",
        "Start the worker with folkmoot site up.",
    ),
    "rate": ("finds this site asking too often", "Look for a second worker of the site."),
    "unfinished": (
        "holds too many uploads of this site that were not finished",
        "Finish them, or wait: what nobody comes back for is swept after a week.",
    ),
    "size": ("does not take that many bytes", "Ask the coordinator to raise its limit."),
    "run": (
        "has no open run of that name with this site",
        "Compare federation and run with the coordinator's.",
    ),
}


def refusal(answer: Any, what: str) -> ProtocolError | None:
    """What the guard refused, as an error; None for other answers."""
    if answer.status_code not in {400, 401, 403, 411, 413, 422, 429}:
        return None
    try:
        body = answer.json()
        reason = str(body.get("reason"))
    except (ValueError, AttributeError):
        body, reason = {}, f"status {answer.status_code}"
    if reason == "version":
        return apart(str(body.get("folkmoot")), "The coordinator runs")
    told, remedy = _REASONS.get(
        reason, (f"refused it ({reason[:60]})", "folkmoot doctor --site NAME says more.")
    )
    return ProtocolError("protocol.refused", f"{what}: the coordinator {told}.", remedy)


def _structured(digest: str) -> str:
    return f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"


class _Slices:
    """A stretch of an artefact in pieces, as often as it is sent; large copies cost page faults."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data, self._start, self._end = memoryview(data), start, end

    def __iter__(self) -> Iterator[bytes]:
        for at in range(self._start, self._end, _PIECE):
            yield bytes(self._data[at : min(at + _PIECE, self._end)])


def _failed(key: str, how: str) -> TransientError:
    return TransientError(
        "transient.exchange",
        f"The coordinator's exchange store did not take or give {key} ({how}).",
        "Check the network to the coordinator; the step can be repeated and goes on where it was.",
    )
