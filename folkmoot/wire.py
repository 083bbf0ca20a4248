"""Canonical encoding of everything that crosses a border.

An artefact is::

    b"FOLKMOOT"  version u16  header length u32  header (canonical JSON)  arrays, each 64-byte aligned

with all integers little-endian.  The header holds the artefact's ``kind``, its ``meta`` and one
entry per array (name, dtype, shape, offset), sorted by name.  Equal content gives equal bytes on
every machine; the digest is SHA-256 over all bytes.  Nothing is executed on reading: no pickle.
Golden vectors: ``tests/vectors``.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ProtocolError

__all__ = ["Artefact", "canonical_json", "decode", "digest", "encode", "pieces", "remember"]

MAGIC = b"FOLKMOOT"
VERSION = 1
ALIGN = 64
_PREFIX = struct.Struct("<8sHI")
#: Dtypes that may travel: fixed width, no objects, no strings.
DTYPES = frozenset({"<f8", "<f4", "<i8", "<i4", "<u8", "<u4", "|u1", "|b1"})
#: Largest header accepted, bytes.
MAX_HEADER = 16 * 1024 * 1024

_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)

Array = NDArray[Any]
#: What :func:`remember` keeps, one per thread and up to this many bytes.
_lately = threading.local()
_LATELY_BYTES = 16 * 1024 * 1024
#: Headers that this process wrote lately: known to be canonical when they are read again.
_written: dict[bytes, None] = {}
_WRITTEN, _WRITTEN_BYTES = 32, 256 * 1024


@dataclass(frozen=True)
class Artefact:
    """What one encoded artefact holds.

    Parameters
    ----------
    kind : str
        What it is, such as ``"update"`` or ``"model"``.
    meta : dict
        JSON values (finite numbers, strings, lists, dicts).
    arrays : dict of str to ndarray
        C-contiguous arrays of a dtype of :data:`DTYPES`.
    """

    kind: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


def canonical_json(value: object) -> bytes:
    """Encode ``value`` as JSON with sorted keys, no spaces, UTF-8, finite numbers only."""
    return _CANONICAL.encode(value).encode()


def digest(data: bytes | memoryview) -> str:
    """SHA-256 of ``data``, as 64 hex characters; O(bytes), but for what was asked for just before."""
    if getattr(_lately, "data", None) is data:
        return str(_lately.digest)
    found = hashlib.sha256(data).hexdigest()
    if isinstance(data, bytes):
        remember(data, found)
    return found


def remember(data: bytes, digest: str) -> None:
    """Keep the digest of the object ``data``, which this thread is asked about again in a moment.

    What is signed, put and committed is one object; a large release would be read five times.
    """
    if len(data) <= _LATELY_BYTES:
        _lately.data, _lately.digest = data, digest


def encode(artefact: Artefact) -> bytes:
    """Encode an artefact; O(bytes).

    Raises
    ------
    ProtocolError
        ``protocol.format`` for a dtype that may not travel.
    """
    return b"".join(pieces(artefact))


def pieces(artefact: Artefact) -> list[bytes | memoryview]:
    """What :func:`encode` joins, arrays as they lie in memory; to be signed without a copy.

    Raises
    ------
    ProtocolError
        ``protocol.format`` for a dtype that may not travel.
    """
    entries: list[dict[str, Any]] = []
    chunks: list[bytes | memoryview] = []
    offset = 0
    for name in sorted(artefact.arrays):
        array = np.asarray(artefact.arrays[name])
        if array.dtype.byteorder == ">" or not array.flags.c_contiguous:
            array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        if array.dtype.str not in DTYPES:
            raise ProtocolError(
                "protocol.format",
                f"Array {name} has dtype {array.dtype}, which may not travel.",
                "Convert it to a fixed-width number.",
            )
        entries.append(
            {"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "offset": offset}
        )
        padding = -array.nbytes % ALIGN
        chunks += [array.reshape(-1).view(np.uint8).data, bytes(padding)]
        offset += array.nbytes + padding
    header = canonical_json(
        {"kind": artefact.kind, "meta": dict(artefact.meta), "arrays": entries, "bytes": offset}
    )
    if len(header) <= _WRITTEN_BYTES:
        _written[header] = None
    while len(_written) > _WRITTEN:
        _written.pop(next(iter(tuple(_written)), b""), None)
    start = _PREFIX.size + len(header)
    return [_PREFIX.pack(MAGIC, VERSION, len(header)), header, bytes(-start % ALIGN), *chunks]


def decode(data: bytes | memoryview, *, kind: str | None = None) -> Artefact:
    """Decode bytes that may come from another party.

    Parameters
    ----------
    data : bytes or memoryview
        The whole artefact.
    kind : str, optional
        Kind that is expected.

    Returns
    -------
    Artefact
        With read-only arrays over ``data``.

    Raises
    ------
    ProtocolError
        ``protocol.truncated``, ``protocol.format`` or ``protocol.mismatch``.
    """
    if len(data) < _PREFIX.size:
        raise _truncated(len(data))
    magic, version, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise _malformed("does not start with the Folkmoot mark")
    if version != VERSION:
        raise _malformed(f"has format version {version}, this side reads {VERSION}")
    if length > MAX_HEADER:
        raise _malformed("has a header larger than 16 MiB")
    start = _PREFIX.size + length
    if len(data) < start:
        raise _truncated(len(data))
    try:
        text = bytes(data[_PREFIX.size : start])
        header = json.loads(text)
        # One spelling per content, and nothing in it (infinities, lone surrogates, keys twice)
        # that could not be written again.
        if text not in _written and canonical_json(header) != text:
            raise ValueError
        found, meta, entries, total = (header[k] for k in ("kind", "meta", "arrays", "bytes"))
        if not isinstance(found, str) or not isinstance(meta, dict) or type(total) is not int:
            raise TypeError
        start += -start % ALIGN
        if len(data) < start + total:
            raise _truncated(len(data))
        if len(data) > start + total:
            raise _malformed("has bytes behind its end")
        names = [entry["name"] for entry in entries]
        if not all(isinstance(name, str) for name in names) or names != sorted(set(names)):
            raise ValueError
        arrays = {entry["name"]: _array(data, start, total, entry) for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _malformed("has a damaged header") from None
    if kind is not None and found != kind:
        raise ProtocolError(
            "protocol.mismatch",
            f"An artefact of kind {kind} was expected, another kind was found.",
            "Check which step published it.",
        )
    return Artefact(found, meta, arrays)


def _array(data: bytes | memoryview, start: int, total: int, entry: Mapping[str, Any]) -> Array:
    if entry["dtype"] not in DTYPES:
        raise ValueError
    dtype = np.dtype(entry["dtype"])
    shape = tuple(entry["shape"])
    offset = entry["offset"]
    if not all(type(n) is int and 0 <= n < 2**40 for n in (*shape, offset)):
        raise ValueError
    count = 1
    for n in shape:
        count *= n
    if offset % ALIGN or offset + count * dtype.itemsize > total:
        raise ValueError
    return np.frombuffer(data, dtype, count, start + offset).reshape(shape)


def _truncated(size: int) -> ProtocolError:
    return ProtocolError(
        "protocol.truncated",
        f"An artefact ends after {size} bytes, before its own end.",
        "Run the step that publishes it again; nothing was read from it.",
    )


def _malformed(what: str) -> ProtocolError:
    return ProtocolError(
        "protocol.format",
        f"An artefact {what}.",
        "Check that both sides run the same version of folkmoot.",
    )
