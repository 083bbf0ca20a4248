"""Search what left a site for planted values and secrets, in every form they might have taken."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

__all__ = ["forms_of", "leaks", "outside"]


def forms_of(value: str | float | bytes) -> dict[str, bytes]:
    """A planted value as bytes: text in two encodings, hex, base64 at each offset; a number in
    decimals and as float32 and float64 in both byte orders."""
    forms: dict[str, bytes] = {}
    if isinstance(value, float):
        for code in ("<d", ">d", "<f", ">f"):
            forms[f"packed {code}"] = struct.pack(code, value)
        forms["decimal"] = repr(value).encode()
        forms["float32 decimal"] = str(np.float32(value)).encode()
        forms["float32 widened"] = repr(float(np.float32(value))).encode()
        return forms
    raw = value.encode() if isinstance(value, str) else value
    forms["raw"] = raw
    if isinstance(value, str):
        forms["utf-16"] = value.encode("utf-16-le")
    forms["hex"] = raw.hex().encode()
    forms["HEX"] = raw.hex().upper().encode()
    for skip in range(3):  # base64 of a text that has the value in its middle
        whole = (len(raw) - skip) // 3 * 3
        encoded = base64.b64encode(raw[skip : skip + whole])
        forms[f"base64 at {skip}"] = encoded
        forms[f"base64url at {skip}"] = encoded.translate(bytes.maketrans(b"+/", b"-_"))
    return forms


def leaks(places: Mapping[str, bytes], needles: Mapping[str, str | float | bytes]) -> list[str]:
    """``place: needle (form)`` for every needle that any place holds, also compressed."""
    forms = [
        (f"{name} ({form})", data)
        for name, value in needles.items()
        for form, data in forms_of(value).items()
    ]
    found: list[str] = []
    for place, data in places.items():
        for layer in _layers(data):
            found += [f"{place}: {what}" for what, needle in forms if needle in layer]
    return sorted(set(found))


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
    """The bytes, and what they hold where they are a compressed file."""
    yield data
    if depth == 0:
        return
    inner: list[bytes] = []
    if data[:2] == b"\x1f\x8b":
        inner = [gzip.decompress(data)]
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inner = [archive.read(name) for name in archive.namelist()]
    elif data[:1] == b"\x78":
        try:
            inner = [zlib.decompress(data)]
        except zlib.error:
            inner = []
    for layer in inner:
        yield from _layers(layer, depth - 1)
