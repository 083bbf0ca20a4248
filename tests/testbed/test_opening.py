"""From packets to plaintext, against Python's own TLS; and what is not found when it is not there."""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import ssl
import struct
from pathlib import Path

import pytest

from benchmarks.testbed.messages import bodies
from benchmarks.testbed.on_purpose import Leak, payloads
from benchmarks.testbed.report import databases, searched
from benchmarks.testbed.streams import connections
from benchmarks.testbed.tls import opened, session_keys
from pipelines.guard.certificates import ensure_certificate
from tests.leaks import leaks

PORT = 8443
NAME = "Canary-clinic-a"


class Line:
    """A TLS connection in memory: what either side wrote to the line, and the keys it wrote down."""

    def __init__(self, folder: Path) -> None:
        authority, certificate, key = ensure_certificate(folder, "here.example")
        self.keys = folder / "keys"
        there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        there.load_cert_chain(certificate, key)
        site = ssl.create_default_context(cafile=str(authority))
        site.keylog_filename = str(self.keys)
        self._ends = [ssl.MemoryBIO() for _ in range(4)]
        a, b, c, d = self._ends
        self.site = site.wrap_bio(a, b, server_hostname="here.example")
        self.there = there.wrap_bio(c, d, server_side=True)
        self.lines = [bytearray(), bytearray()]
        for _ in range(4):
            for side in (self.site, self.there):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
                self.move()

    def move(self) -> None:
        site_in, site_out, there_in, there_out = self._ends
        for out, end, line in ((site_out, there_in, 0), (there_out, site_in, 1)):
            data = out.read()
            self.lines[line] += data
            end.write(data)

    def say(self, *pieces: bytes, back: bytes = b"") -> None:
        """Each piece in a record of its own."""
        for piece in pieces:
            self.site.write(piece)
            self.move()
            self.there.read()
        if back:
            self.there.write(back)
            self.move()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    made = Line(tmp_path_factory.mktemp("line"))
    text = NAME.encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (text[:4], text[4:]))
    head = b"POST /x HTTP/1.1\r\nhost: h\r\n"
    made.say(
        head + b"transfer-encoding: chunked\r\n\r\n", *(bytes([b]) for b in chunks + b"0\r\n\r\n")
    )
    packed = gzip.compress(b"answer to " + text)
    made.say(back=b"HTTP/1.1 403 No\r\ncontent-encoding: gzip\r\n"
             b"content-length: %d\r\n\r\n" % len(packed) + packed)  # fmt: skip
    return made


def test_both_directions_are_opened(line: Line) -> None:
    keys = session_keys(line.keys.read_text().splitlines())
    found = opened(bytes(line.lines[0]), bytes(line.lines[1]), keys)
    assert found.fault is None
    assert found.read == found.records > 30
    assert found.sent.startswith(b"POST /x HTTP/1.1")
    assert found.received.startswith(b"HTTP/1.1 403")
    read = dict(bodies(found.sent, found.received))
    assert read == {"request 1": NAME.encode(), "answer 1": b"answer to " + NAME.encode()}
    assert NAME.encode() not in found.sent  # chunks part it
    assert leaks({"as sent": bytes(line.lines[0] + line.lines[1])}, {"n": NAME}) == []


def test_what_cannot_be_opened_is_counted(line: Line) -> None:
    keys = session_keys(line.keys.read_text().splitlines())
    without = opened(bytes(line.lines[0]), bytes(line.lines[1]), {})
    assert (without.read, without.sent) == (0, b"")
    assert without.records > 30
    assert "key was not written" in str(without.fault)
    wrong = {k: v[::-1] if "TRAFFIC_SECRET_0" in k[0] else v for k, v in keys.items()}
    spoiled = opened(bytes(line.lines[0]), bytes(line.lines[1]), wrong)
    assert (spoiled.read, spoiled.sent) == (0, b"")
    assert spoiled.records > 30
    assert "does not open" in str(spoiled.fault)


def _packet(up: bool, number: int, data: bytes, flags: int = 16) -> bytes:
    ends = [(socket.inet_aton("10.0.0.2"), 50000), (socket.inet_aton("10.0.0.1"), PORT)]
    (source, one), (target, other) = ends if up else ends[::-1]
    tcp = struct.pack(">HHIIBBHHH", one, other, number % 2**32, 0, 5 << 4, flags, 0, 0, 0) + data
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, source, target)
    return b"\0" * 12 + b"\x08\x00" + ip + tcp + b"\0" * 4  # Ethernet pads short frames


def test_segments_are_put_in_order() -> None:
    """Out of order, repeated, overlapping, with numbers that begin anew after 2**32."""
    sent, received = random.Random(2).randbytes(8000), b"answer" * 700
    start, packets = 2**32 - 3000, []
    for up, data in ((True, sent), (False, received)):
        spans = [(at, data[at : at + 700]) for at in range(0, len(data), 500)]
        packets += [_packet(up, start + 1 + at, part) for at, part in [*spans, spans[2]]]
    random.Random(3).shuffle(packets)
    begin = [_packet(True, start, b"", 2), _packet(False, start, b"", 18)]
    (found,) = connections(begin + packets, {PORT})
    assert (found.sent, found.received, found.whole) == (sent, received, True)
    gone = [p for p in packets if sent[1000:1200] not in p]
    (found,) = connections(begin + gone, {PORT})
    assert not found.whole
    assert found.sent
    assert sent.startswith(found.sent)


def test_a_leak_that_was_not_made_is_not_found() -> None:
    made = [Leak("XCom", form, needle) for form, (_, needle) in payloads().items()]
    other = payloads()
    places = {f"database airflow/xcom {n}": data for n, (data, _) in enumerate(other.values())}
    found, lost = searched(places, {"a canary": NAME}, made)
    assert found == []
    assert len(lost) == len(made)
    here = {"database airflow/xcom": b"\n".join(data for data, _ in other.values()) + NAME.encode()}
    there = [Leak("XCom", form, needle) for form, (_, needle) in other.items()]
    found, lost = searched(here, {"a canary": NAME}, there)
    assert lost == []
    assert found == ["database airflow/xcom: a canary (raw)"]
    elsewhere = [Leak("MLflow artefact", form, needle) for form, (_, needle) in other.items()]
    assert len(searched(here, {}, elsewhere)[1]) == len(elsewhere)


def test_a_long_value_in_a_database_is_found(tmp_path: Path) -> None:
    """SQLite lays it on pages that need not follow each other."""
    import sqlite3

    file = tmp_path / "a.db"
    text = ("x" * 4000 + NAME) * 9
    with sqlite3.connect(file) as database:
        database.execute("create table t (a text, b blob, c int)")
        database.execute("insert into t values (?, ?, 7)", (text, gzip.compress(text.encode())))
    places = databases(f"sqlite:///{file}", "a.db")
    assert any("a.db/t" in leak for leak in leaks(places, {"n": NAME}))
