"""Bodies of HTTP/1.1 messages of a connection: chunks joined, content encodings undone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

__all__ = ["bodies"]


def bodies(sent: bytes, received: bytes) -> Iterator[tuple[str, bytes]]:
    """``request 1`` …, ``answer 1`` … with their bodies, as far as they can be read.

    What is no HTTP, or breaks off, is searched as a stream all the same.
    """
    import h11

    limit = max(len(sent), len(received), 1 << 16)
    site = h11.Connection(h11.SERVER, max_incomplete_event_size=limit)
    there = h11.Connection(h11.CLIENT, max_incomplete_event_size=limit)
    site.receive_data(sent)
    there.receive_data(received)
    number = 0
    try:
        while True:
            number += 1
            request, body = _message(site)
            if request is None:
                return
            yield f"request {number}", body
            there.send(request)
            there.send(h11.EndOfMessage())
            answer, body = _message(there)
            if answer is None:
                return
            yield f"answer {number}", body
            if site.our_state is h11.SEND_RESPONSE:
                site.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                site.send(h11.EndOfMessage())
            site.start_next_cycle()
            there.start_next_cycle()
    except h11.ProtocolError:
        return


def _message(side: Any) -> tuple[Any, bytes]:
    import h11

    head, body = None, bytearray()
    while True:
        event = side.next_event()
        if isinstance(event, h11.Request | h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return _bare(head), _plain(head, bytes(body))
        elif not isinstance(event, h11.InformationalResponse):
            return (None, b"") if head is None else (_bare(head), _plain(head, bytes(body)))


def _bare(head: Any) -> Any:
    """A request that can be sent without its body, so that the answer is read as one to it."""
    import h11

    if not isinstance(head, h11.Request):
        return head
    kept = [(k, v) for k, v in head.headers if k not in {b"content-length", b"transfer-encoding"}]
    kept = [(k, v) for k, v in kept if k != b"expect"]
    return h11.Request(method=head.method, target=head.target, headers=kept)


def _plain(head: Any, body: bytes) -> bytes:
    coding = next((v.decode() for k, v in head.headers if k == b"content-encoding"), "")
    for word in reversed([w.strip().lower() for w in coding.split(",")]):
        body = _undone(word, body)
    return body


def _undone(coding: str, body: bytes) -> bytes:
    if coding in {"gzip", "x-gzip", "deflate"}:
        for bits in (47, -15):  # either header, or none
            try:
                return zlib.decompressobj(bits).decompress(body)
            except zlib.error:
                continue
    if coding in {"zstd", "br"}:
        import pyarrow as pa

        name = "brotli" if coding == "br" else coding
        try:
            return bytes(pa.CompressedInputStream(pa.BufferReader(body), name).read())
        except (pa.ArrowException, OSError):
            return body
    return body
