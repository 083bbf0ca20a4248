"""Search what left a site for planted values and secrets, in every form they might have taken."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

__all__ = ["forms_of", "leaks", "outside"]

#: How compressed data and Parquet files begin; a zip's members are looked at one by one.
_PACKED = re.compile(
    rb"(?P<gzip>\x1f\x8b\x08)|(?P<zip>PK\x03\x04)|(?P<zstd>\x28\xb5\x2f\xfd)|(?P<parquet>PAR1)"
    rb"|(?P<zlib>\x78[\x01\x5e\x9c\xda])",
    re.DOTALL,
)
#: Text that may be an encoding of such data.
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-](?:(?:\\n|\r?\n)?[A-Za-z0-9+/_-]){23,}")
_HEX = re.compile(rb"(?:1f8b08|504b0304|28b52ffd|50415231|78(?:01|5e|9c|da))[0-9a-f]{24,}", re.I)
_LINES = re.compile(rb"\\n|[\r\n]")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_LARGEST = 1 << 28


def forms_of(value: str | float | bytes) -> dict[str, bytes]:
    """A planted value as bytes: text in two encodings, hex, base64 at each offset; a number in
    decimals and as float32 and float64 in both byte orders."""
    forms: dict[str, bytes] = {}
    if isinstance(value, float):
        for code in ("<d", ">d", "<f", ">f"):
            forms[f"packed {code}"] = struct.pack(code, value)
        forms |= _encoded("packed", struct.pack("<d", value))
        texts = {"decimal": repr(value), "float32 decimal": str(np.float32(value))}
        texts["float32 widened"] = repr(float(np.float32(value)))
        for name, text in texts.items():
            forms |= {name: text.encode(), **_encoded(name, text.encode())}
        return forms
    raw = value.encode() if isinstance(value, str) else value
    forms["raw"] = raw
    if isinstance(value, str):
        forms["utf-16"] = value.encode("utf-16-le")
    return forms | _encoded("", raw)


def _encoded(name: str, raw: bytes) -> dict[str, bytes]:
    """As hex, and as it stands in the base64 of a text that has the value in its middle."""
    forms = {"hex": raw.hex().encode(), "HEX": raw.hex().upper().encode()}
    for skip in range(3):
        whole = (len(raw) - skip) // 3 * 3
        encoded = base64.b64encode(raw[skip : skip + whole])
        forms[f"base64 at {skip}"] = encoded
        forms[f"base64url at {skip}"] = encoded.translate(bytes.maketrans(b"+/", b"-_"))
    return {f"{name} {form}".strip(): data for form, data in forms.items()}


def leaks(places: Mapping[str, bytes], needles: Mapping[str, str | float | bytes]) -> list[str]:
    """``place: needle (form)`` for every needle that any place holds, also compressed.

    Compressed are gzip, zlib, zip, zstd and Parquet, anywhere in the bytes, three deep, and in base64
    or hex.
    """
    forms: dict[bytes, str] = {}
    for name, value in needles.items():
        for form, data in forms_of(value).items():
            forms.setdefault(data, f"{name} ({form})")
    found: set[str] = set()
    for place, data in places.items():
        for layer in _layers(data):
            found |= {f"{place}: {what}" for needle, what in forms.items() if needle in layer}
    return sorted(found)


def outside(workspace: Path) -> dict[str, bytes]:
    """Every file of a workspace, and every name, that is not a site's own."""
    places: dict[str, bytes] = {}
    for path in sorted(workspace.rglob("*")):
        name = path.relative_to(workspace)
        if name.parts[0] in {"sites", "remotes"} and len(name.parts) > 2:
            continue  # <workspace>/sites/<site>/… and the site's own DVC remote
        places[f"name of {name}"] = str(name).encode()
        if path.is_symlink():
            places[f"target of {name}"] = str(path.readlink()).encode()
        elif path.is_file():
            places[str(name)] = path.read_bytes()
    return places


def _layers(data: bytes, depth: int = 3) -> Iterator[bytes]:
    """The bytes, and what they hold compressed, as it is or encoded."""
    yield data
    if depth == 0:
        return
    for inner in _unpacked(data):
        yield from _layers(inner, depth - 1)
    for encoded in _BASE64.findall(data):
        text = _LINES.sub(b"", encoded).translate(_STANDARD)
        for skip in range(4):  # a run of such characters may begin before the encoding does
            whole = text[skip : skip + (len(text) - skip) // 4 * 4]
            for inner in _unpacked(base64.b64decode(whole)):
                yield from _layers(inner, depth - 1)
    for encoded in _HEX.findall(data):
        for inner in _unpacked(bytes.fromhex(encoded[: len(encoded) // 2 * 2].decode())):
            yield from _layers(inner, depth - 1)


def _unpacked(data: bytes) -> Iterator[bytes]:
    """What the compressed parts of the bytes hold, as far as they are whole."""
    for match in _PACKED.finditer(data):
        kind, start = match.lastgroup, match.start()
        try:
            if kind == "zip":
                inner = _member(data, start)
            elif kind == "zstd":
                inner = _zstd(data[start:])
            elif kind == "parquet":
                inner = _parquet(data, start)
            else:
                inner = zlib.decompressobj(47).decompress(data[start:], _LARGEST)
        except zlib.error:
            continue
        if len(inner) >= 4:
            yield inner


def _member(data: bytes, start: int) -> bytes:
    """A member of a zip archive; those that are stored can be seen anyhow."""
    if len(data) < start + 30 or data[start + 8] != 8:
        return b""
    name, extra = struct.unpack_from("<HH", data, start + 26)
    begin = start + 30 + name + extra
    return zlib.decompressobj(-15).decompress(data[begin:], _LARGEST)


def _zstd(data: bytes) -> bytes:
    import pyarrow as pa

    stream = pa.CompressedInputStream(pa.BufferReader(data), "zstd")
    made = bytearray()
    try:
        while len(made) < _LARGEST and (piece := stream.read(1 << 16)):
            made += piece
    except (pa.ArrowException, OSError):
        pass  # what follows the frame, or no zstd at all
    return bytes(made)


def _parquet(data: bytes, start: int) -> bytes:
    """The columns of a Parquet file as text and as numbers in memory, one after the other."""
    import pyarrow as pa
    from pyarrow import parquet

    end = data.find(b"PAR1", start + 4)
    while end > 0:
        try:
            table = parquet.read_table(io.BytesIO(data[start : end + 4]))
        except (pa.ArrowException, OSError, ValueError):
            end = data.find(b"PAR1", end + 4)
            continue
        made = bytearray()
        for column in table.columns:
            values = column.to_pylist()
            made += "\n".join(map(str, values)).encode() + b"\n"
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                made += column.to_numpy(zero_copy_only=False).tobytes()
        rows = table.to_pylist()
        return bytes(made) + "\n".join(",".join(map(str, r.values())) for r in rows).encode()
    return b""
