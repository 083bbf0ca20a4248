"""The search that other tests trust: planted values are found in every form in which they may leave."""

from __future__ import annotations

import base64
import gzip
import io
import zipfile
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa

from tests.leaks import leaks

NAME, MAIL, VALUE = "Zyxwvcanary", "canarymail", 63.731255190357


def test_every_disguise_is_seen_through() -> None:
    row = f"{NAME};{MAIL}".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.csv", gzip.compress(row))
    parquet = io.BytesIO()
    pd.DataFrame({"patient": [f"{NAME};{i % 2}" for i in range(99)]}).to_parquet(parquet)
    disguises = {
        "plain": row,
        "hex": row.hex().encode(),
        "HEX": row.hex().upper().encode(),
        "utf-16": f"x{NAME}".encode("utf-16-le"),
        "compressed": gzip.compress(b"so " + row),
        "archived": packed.getvalue(),
        "compressed within": b"so " + gzip.compress(row) + b" it goes on",
        "zstd": bytes(pa.compress(row * 9, "zstd", asbytes=True)),
        "zlib": b"so " + zlib.compress(row),
        "base64 of gzip": b"id=" + base64.b64encode(gzip.compress(row)),
        "base64 of gzip in a text": base64.b64encode(b"so " + gzip.compress(row)),
        "base64 of gzip in lines": base64.encodebytes(gzip.compress(row * 9)),
        "hex of gzip": b"id=" + gzip.compress(row).hex().encode(),
        "Parquet": parquet.getvalue(),
        "base64 of Parquet": base64.b64encode(parquet.getvalue()),
        **{f"base64 at {n}": base64.b64encode(b"." * n + row) for n in range(3)},
        **{f"url-safe at {n}": base64.urlsafe_b64encode(b"\xff" * n + row) for n in range(3)},
    }
    found = leaks(disguises, {"a name": NAME})
    assert {leak.partition(":")[0] for leak in found} == set(disguises)
    numbers = {
        "float64": np.array([0.0, VALUE]).tobytes(),
        "float32": np.array([VALUE], np.float32).tobytes(),
        "big-endian": np.array([VALUE], ">f8").tobytes(),
        "JSON": f"[1, {VALUE!r}]".encode(),
        "float32 in JSON": f"[{np.float32(VALUE)!s}]".encode(),
        "base64": base64.b64encode(b"." + np.array([0.0, VALUE]).tobytes()),
        "hex": np.array([0.0, VALUE]).tobytes().hex().encode(),
        "base64 of JSON": base64.b64encode(f"[1, {VALUE!r}]".encode()),
        "float32 as float64": f"[{float(np.float32(VALUE))!r}]".encode(),
    }
    assert {leak.partition(":")[0] for leak in leaks(numbers, {"n": VALUE})} == set(numbers)
    assert leaks({"innocent": b"nothing to see" * 999}, {"a name": NAME, "n": VALUE}) == []
