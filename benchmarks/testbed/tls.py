"""TLS 1.3 (RFC 8446) of a capture, opened with the session keys that the sites wrote down."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

__all__ = ["Opened", "opened", "session_keys"]

_HANDSHAKE, _DATA = 22, 23
_FINISHED, _KEY_UPDATE = 20, 24
_SUITES: dict[int, tuple[Any, int, Any]] = {
    0x1301: (AESGCM, 16, hashes.SHA256()),
    0x1302: (AESGCM, 32, hashes.SHA384()),
    0x1303: (ChaCha20Poly1305, 32, hashes.SHA256()),
}
Keys = Mapping[tuple[str, bytes], bytes]


@dataclass
class Opened:
    """A connection's plaintext.

    Attributes
    ----------
    sent, received : bytes
        Application data of both directions, records joined.
    records, read : int
        Encrypted records after the handshakes, and how many of them could be opened.
    fault : str or None
        Why some, or all, were not.
    """

    sent: bytes = b""
    received: bytes = b""
    records: int = 0
    read: int = 0
    fault: str | None = None


def session_keys(lines: Iterable[str]) -> dict[tuple[str, bytes], bytes]:
    """Secrets by label and client random, from the format of ``SSLKEYLOGFILE``."""
    words = (line.split() for line in lines if not line.startswith("#"))
    return {(w[0], bytes.fromhex(w[1])): bytes.fromhex(w[2]) for w in words if len(w) == 3}


def opened(sent: bytes, received: bytes, keys: Keys) -> Opened:
    """Decrypt both directions of a TLS 1.3 connection.

    Parameters
    ----------
    sent, received : bytes
        What client and server wrote to the line.
    keys : mapping
        From :func:`session_keys`.
    """
    made = Opened()
    records = [list(_records(data)) for data in (sent, received)]
    made.records = sum(_encrypted(found) for found in records)
    hello, answer = (next((b for kind, b in r if kind == _HANDSHAKE), b"") for r in records)
    if len(hello) < 38 or len(answer) < 41:
        made.fault = None if not made.records else "its beginning was not captured"
        return made
    random = hello[6:38]
    suite = struct.unpack_from(">H", answer, 39 + answer[38])[0]
    if suite not in _SUITES:
        made.fault = f"cipher suite {suite:#06x} is not of TLS 1.3"
        return made
    texts, made.records = [], 0
    for who, found in zip(("CLIENT", "SERVER"), records, strict=True):
        try:
            secrets = [
                keys[f"{who}_{k}", random] for k in ("HANDSHAKE_TRAFFIC_SECRET", "TRAFFIC_SECRET_0")
            ]
        except KeyError:
            count = _encrypted(found)
            made.records += count
            made.fault, text = ("its key was not written down" if count else made.fault), b""
        else:
            side = _Direction(suite, secrets[0], secrets[1])
            text = side.text(found)
            made.records, made.read = made.records + side.records, made.read + side.read
            made.fault = made.fault or side.fault
        texts.append(text)
    made.sent, made.received = texts
    return made


def _encrypted(records: list[tuple[int, bytes]]) -> int:
    return sum(kind == _DATA for kind, _ in records)


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 5 <= len(data):
        kind, version, length = data[at], data[at + 1], struct.unpack_from(">H", data, at + 3)[0]
        if version != 3 or not 20 <= kind <= 23 or at + 5 + length > len(data):
            return
        yield kind, data[at + 5 : at + 5 + length]
        at += 5 + length


@dataclass
class _Direction:
    """One direction's keys, which change after the handshake and when a side asks for it."""

    suite: int
    handshake: bytes
    application: bytes
    records: int = 0
    read: int = 0
    fault: str | None = None
    _pending: bytearray = field(default_factory=bytearray)

    def text(self, records: list[tuple[int, bytes]]) -> bytes:
        made, after = bytearray(), False
        self._turn(self.handshake)
        for kind, body in records:
            if kind != _DATA:
                continue
            self.records += after or self.fault is not None
            if self.fault is not None:
                continue
            inner, plain = self._open(body)
            if inner is None:
                self.fault = "a record does not open with the keys"
                self.records += not after
                continue
            self.read += after
            if inner == _DATA:
                made += plain
            elif inner == _HANDSHAKE:
                for message in self._messages(plain):
                    if message == _FINISHED and not after:
                        after = True
                        self._turn(self.application)
                    elif message == _KEY_UPDATE:
                        size = _SUITES[self.suite][2].digest_size
                        self._turn(self._expand(self._secret, b"traffic upd", size))
        return bytes(made)

    def _messages(self, plain: bytes) -> Iterator[int]:
        """Types of the handshake messages that are whole by now."""
        self._pending += plain
        while len(self._pending) >= 4:
            end = 4 + int.from_bytes(self._pending[1:4], "big")
            if len(self._pending) < end:
                return
            kind = self._pending[0]
            del self._pending[:end]
            yield kind

    def _turn(self, secret: bytes) -> None:
        kind, size, _ = _SUITES[self.suite]
        self._secret, self._number = secret, 0
        self._cipher = kind(self._expand(secret, b"key", size))
        self._nonce = int.from_bytes(self._expand(secret, b"iv", 12), "big")

    def _expand(self, secret: bytes, label: bytes, size: int) -> bytes:
        """``HKDF-Expand-Label`` without context."""
        named = b"tls13 " + label
        info = struct.pack(">HB", size, len(named)) + named + b"\x00"
        return HKDFExpand(_SUITES[self.suite][2], size, info).derive(secret)

    def _open(self, body: bytes) -> tuple[int | None, bytes]:
        nonce = (self._nonce ^ self._number).to_bytes(12, "big")
        header = struct.pack(">BHH", _DATA, 0x0303, len(body))
        try:
            plain = self._cipher.decrypt(nonce, body, header).rstrip(b"\x00")
        except InvalidTag:
            return None, b""
        self._number += 1
        return (plain[-1], plain[:-1]) if plain else (None, b"")
