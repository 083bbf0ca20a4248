"""Large artefacts from and to the coordinator's S3 store itself, where a site's steward named its host.

The coordinator answers a read with a link that works for minutes, the digest and the size; an upload
with a link to a place from which it takes the bytes in.  A site follows links to named hosts alone, with
nothing of its own but the request: a coordinator cannot make it ask around behind its firewall.
Whatever goes wrong there, the site turns to the coordinator as ever.
"""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx

    from folkmoot.identity.visit import Visit

__all__ = ["VARIABLE", "Stores"]

#: Names the hosts, ``permissions.stores`` of the site's own settings.
VARIABLE = "FOLKMOOT_STORES"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Stores:
    """Hosts that a site may read from besides its coordinator.

    Parameters
    ----------
    hosts : sequence of str
        ``host`` or ``host:port``.
    visit : Visit
        The way to the coordinator: its authority is trusted for the store as well.
    """

    def __init__(self, hosts: list[str], visit: Visit) -> None:
        self._hosts, self._visit = frozenset(host.lower() for host in hosts), visit

    @staticmethod
    def named(visit: Visit) -> Stores | None:
        """The ones that the environment names, if any."""
        hosts = os.environ.get(VARIABLE, "").split()
        return Stores(hosts, visit) if hosts else None

    def read(self, headers: Mapping[str, str]) -> bytes | None:
        """What a link leads to, where it has the size and digest stated beside it; else None."""
        import httpx

        url, stated = headers.get("location", ""), headers.get("repr-digest", "")
        size = headers.get("upload-length", "")
        if not self.permits(url) or not (size.isascii() and size.isdigit()):
            return None
        pieces, length, found = [], 0, hashlib.sha256()
        try:
            with self._client.stream("GET", url) as answer:
                if answer.status_code != 200:
                    return None
                for piece in answer.iter_raw():
                    length += len(piece)
                    if length > int(size):
                        return None
                    pieces.append(piece)
                    found.update(piece)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        whole = f"sha-256=:{base64.b64encode(found.digest()).decode()}:" == stated
        return b"".join(pieces) if whole and length == int(size) else None

    def write(self, headers: Mapping[str, str], data: bytes) -> bool:
        """Put an upload where a link leads; whether it is there."""
        import httpx

        url = headers.get("location", "")
        if not self.permits(url):
            return False
        try:
            return self._client.put(url, content=data).is_success
        except (httpx.HTTPError, httpx.InvalidURL):
            return False

    def permits(self, url: str) -> bool:
        """Whether a link is one to a host of the list, with TLS (on this machine also without)."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            return False
        if parts.username is not None or parts.password is not None:
            return False
        safe = parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
        names = {f"{host}:{port or (443 if parts.scheme == 'https' else 80)}"}
        if port in {None, 443}:
            names.add(host)
        return safe and bool(names & self._hosts)

    @cached_property
    def _client(self) -> httpx.Client:
        import certifi
        import httpx

        # Not the environment's: a worker's own names the coordinator's authority alone.
        context = ssl.create_default_context(cafile=certifi.where())
        if self._visit.authorities is not None:
            context.load_verify_locations(str(self._visit.authorities))
        return httpx.Client(
            verify=context,
            timeout=httpx.Timeout(60.0, connect=5.0),
            headers={"accept-encoding": "identity"},
            follow_redirects=False,
        )
