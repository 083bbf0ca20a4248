"""The wire format: golden bytes, round trips, and bytes that a stranger made up."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.errors import ProtocolError
from folkmoot.wire import Artefact, decode, digest, encode

GOLDEN = Path(__file__).parents[1] / "vectors" / "model-1.bin"


def example() -> Artefact:
    return Artefact(
        "model",
        {"round": 3, "federation": "demo", "nested": {"b": [1, 2.5], "a": None}},
        {
            "coef": np.arange(6, dtype=np.float64).reshape(2, 3) / 7,
            "intercept": np.array([0.1, -0.2]),
            "counts": np.array([1, 2, 3], np.int64),
            "flags": np.array([True, False]),
            "empty": np.zeros((0, 4), np.float32),
        },
    )


def test_golden_bytes_have_not_changed() -> None:
    assert encode(example()) == GOLDEN.read_bytes(), "a change of format needs a new VERSION"


def test_round_trip_keeps_values_shapes_and_types() -> None:
    back = decode(encode(example()), kind="model")
    assert back.meta == example().meta
    for name, array in example().arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
        assert back.arrays[name].dtype == array.dtype
        assert not back.arrays[name].flags.writeable


def test_order_of_insertion_does_not_change_the_digest() -> None:
    one = example()
    other = Artefact("model", dict(reversed(one.meta.items())), dict(reversed(one.arrays.items())))
    assert digest(encode(one)) == digest(encode(other))


def test_big_endian_and_strided_arrays_give_the_same_bytes() -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    plain = encode(Artefact("x", {}, {"a": np.ascontiguousarray(values.T)}))
    assert encode(Artefact("x", {}, {"a": values.T})) == plain
    assert encode(Artefact("x", {}, {"a": values.T.astype(">f8")})) == plain


@pytest.mark.parametrize("dtype", [object, "U3", "S3", np.float16, np.complex128, "M8[s]"])
def test_types_that_may_not_travel_are_refused(dtype: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        encode(Artefact("x", {}, {"a": np.zeros(2, dtype=dtype)}))  # type: ignore[call-overload]
    assert caught.value.code == "protocol.format"


@pytest.mark.parametrize("keep", [0, 1, 13, 14, 40, 200, -1])
def test_truncation_is_named(keep: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(encode(example())[:keep])
    assert caught.value.code == "protocol.truncated"


def test_trailing_bytes_other_kinds_and_versions_are_refused() -> None:
    data = encode(example())
    with pytest.raises(ProtocolError, match="behind its end"):
        decode(data + b"x")
    with pytest.raises(ProtocolError, match="kind update"):
        decode(data, kind="update")
    with pytest.raises(ProtocolError, match="version 2"):
        decode(data[:8] + b"\x02\x00" + data[10:])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_but_protocol_errors(data: st.DataObject) -> None:
    original = bytearray(encode(example()))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(original) - 1))
        original[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        decode(bytes(original))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def reheaded(change: Callable[[bytes], bytes]) -> bytes:
    """The example under a header that a stranger wrote."""
    data = encode(example())
    prefix = struct.Struct("<8sHI")
    length = prefix.unpack_from(data)[2]
    end = prefix.size + length
    header = change(data[prefix.size : end])
    start = prefix.size + len(header)
    packed = prefix.pack(b"FOLKMOOT", 1, len(header))
    return packed + header + bytes(-start % 64) + data[end + (-end % 64) :]


def with_meta(text: bytes) -> Callable[[bytes], bytes]:
    return lambda header: header.replace(b'"meta":{', b'"meta":{"zz":' + text + b",", 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: re.sub(rb'"bytes":\d+', b'"bytes":1e400', header),
        lambda header: re.sub(rb'"bytes":\d+', b'"bytes":true', header),
        lambda header: header.replace(b'"round":3', b'"round":1e400'),
        lambda header: header.replace(b'"round":3', b'"round":NaN'),
        lambda header: header.replace(b'"round":3', b'"round":3,"round":4'),
        lambda header: header.replace(b'"round":3', b'"round": 3'),
        lambda header: header.replace(b'"demo"', b'"\\ud800"'),
        lambda header: header.replace(b'"name":"coef"', b'"name":"counts"'),
        lambda header: header.replace(b'"name":"coef"', b'"name":["coef"]'),
        lambda header: header.replace(b'"shape":[3]', b'"shape":[1099511627776]'),
        lambda header: header.replace(b'"shape":[3]', b'"shape":' + b"[" * 9000 + b"]" * 9000),
        with_meta(b"[" * 200_000 + b"]" * 200_000),
        with_meta(b"1" * 10_000),
    ],
)
def test_headers_that_nobody_could_have_written_are_refused(
    change: Callable[[bytes], bytes],
) -> None:
    assert decode(reheaded(lambda header: header)).meta == example().meta
    data = reheaded(change)
    assert data != encode(example())
    with pytest.raises(ProtocolError) as caught:
        decode(data)
    assert caught.value.code in {"protocol.format", "protocol.truncated"}
