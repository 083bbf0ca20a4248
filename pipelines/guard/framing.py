"""A request as it came over the wire: one meaning only, and no header but those that are needed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl

from pipelines.guard.request import Refusal

__all__ = ["FORWARDED", "headers_of", "path_of", "query_of"]

_PATH = re.compile(rb"/[A-Za-z0-9_.~:@+=,/-]{1,1500}")
_TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(rb"[\x20-\x7e\t]{0,8192}")
#: All that is passed on.  Proxies' and override headers never reach Airflow.
FORWARDED = frozenset(
    {
        *("host", "authorization", "accept", "user-agent", "content-type", "content-length"),
        *("range", "if-range", "prefer", "repr-digest", "upload-offset", "upload-length"),
        *("airflow-api-version", "correlation-id", "traceparent"),
    }
)
#: Bodies that are packed or of unknown length are not taken: what is checked is what is meant.
_CLOSED = frozenset({"transfer-encoding", "content-encoding", "upgrade", "trailer", "expect"})


def path_of(raw: bytes) -> str | None:
    """The path, where it has one spelling: no percent signs, no empty parts, no dots alone."""
    if not _PATH.fullmatch(raw) or b"//" in raw or raw.endswith(b"/"):
        return None
    text = raw.decode("ascii")
    return None if {".", ".."} & set(text.split("/")) else text


def query_of(raw: bytes, allowed: Iterable[str]) -> dict[str, str] | None:
    """The parameters, where all are allowed and none comes twice."""
    if not raw:
        return {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    except ValueError:
        return None
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names) or set(names) - set(allowed) or len(raw) > 500:
        return None
    return dict(pairs)


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str] | Refusal:
    """The headers that count, each once.

    Headers that are not needed are left out, so that nothing behind the guard reads them; those that
    would change where a body ends or what it means are refused.
    """
    found: dict[str, str] = {}
    for name, value in raw:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            return Refusal(400, "header")
        key = name.decode("ascii").lower()
        if key in _CLOSED and not (key == "content-encoding" and value == b"identity"):
            return Refusal(400, "header")
        if key not in FORWARDED:
            continue
        if key in found:
            return Refusal(400, "header")
        found[key] = value.decode("ascii").strip()
    if not re.fullmatch("[0-9]{0,15}", found.get("content-length", "")):
        return Refusal(400, "header")
    return found
