"""Signatures, the roster, and updates that a stranger made up or replayed."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from folkmoot.errors import ConfigError, FolkmootError, PrivacyError, ProtocolError
from folkmoot.identity import Roster, load_key, new_key, public_text, sign, verify
from folkmoot.updates import (
    PRIVATISED_DOOR,
    LinearUpdate,
    PrivatisedUpdate,
    ReleasedUpdate,
    open_released,
    to_artefact,
)
from folkmoot.wire import encode

BINDING = {"federation": "demo", "run": "r1", "round": 2, "site": "a", "step": "round-002/train/a"}


def update(
    key: Ed25519PrivateKey, *, value: float = 1.0, weight: float = 10.0, **changes: Any
) -> bytes:
    parts = {"update": LinearUpdate({"delta": np.full((1, 3), value)}, weight)}
    private = PrivatisedUpdate(PRIVATISED_DOOR, parts, {"update": {}})
    meta = {**BINDING, "receipt": {"private": False}, **changes}
    return sign(encode(to_artefact(meta, private)), key)


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "private" / "signing.key"
    key = new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public_text(load_key(path)) == public_text(key)
    with pytest.raises(FileExistsError):
        new_key(path)
    path.write_bytes(b"short")
    with pytest.raises(ConfigError):
        load_key(path)


def test_the_roster_survives_a_round_trip_and_names_strangers(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    Roster({"a": public_text(key), "b": "00" * 31}).save(tmp_path / "roster.toml")
    roster = Roster.load(tmp_path / "roster.toml")
    assert verify(sign(b"x", key), roster.key("a"), what="it") == b"x"
    with pytest.raises(ProtocolError) as caught:
        roster.key("c")
    assert caught.value.code == "protocol.unknown-site"
    assert caught.value.site == "c"
    with pytest.raises(ConfigError):
        roster.key("b")
    (tmp_path / "roster.toml").write_text("sites = 3")
    with pytest.raises(ConfigError):
        Roster.load(tmp_path / "roster.toml")


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_what_this_process_signed_itself_is_compared_whole(size: int) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    data = bytes(size) + b"x"
    signed = sign(data, key)
    assert verify(bytes(bytearray(signed)), key.public_key(), what="it") == data
    with pytest.raises(ProtocolError):
        verify(signed, other.public_key(), what="it")
    for at in (0, -85, -84, -64, -63, -1):
        bent = bytearray(signed)
        bent[at] ^= 1
        with pytest.raises(ProtocolError):
            verify(bytes(bent), key.public_key(), what="it")


def test_a_signature_of_a_digest_is_none_of_the_digest_itself() -> None:
    """Long data is signed by its SHA-256, under a mark of its own."""
    key, data = Ed25519PrivateKey.generate(), bytes(70_000)
    long = sign(data, key)
    short = sign(hashlib.sha256(data).digest(), key)
    assert long[-84:-64] != short[-84:-64]
    key.public_key().verify(long[-64:], long[-84:-64] + hashlib.sha256(data).digest())
    for forged in (data + short[-84:], data + long[-84:-64] + short[-64:],
                   data + short[-84:-64] + long[-64:], short[:32] + long[-84:]):  # fmt: skip
        with pytest.raises(ProtocolError):
            verify(forged, key.public_key(), what="it")


def test_a_released_update_opens_whole() -> None:
    key = Ed25519PrivateKey.generate()
    opened = open_released(update(key), Roster({"a": public_text(key)}), BINDING)
    assert opened.site == "a"
    part = opened.parts["update"]
    assert isinstance(part, LinearUpdate)
    assert part.weight == 10.0
    np.testing.assert_array_equal(part.arrays["delta"], np.ones((1, 3)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"round": 3}, "protocol.mismatch"),
        ({"run": "r2"}, "protocol.mismatch"),
        ({"site": "b"}, "protocol.mismatch"),
        ({"step": "final/evaluate/a"}, "protocol.mismatch"),
        ({"value": float("nan")}, "protocol.format"),
        ({"weight": 0.0}, "protocol.format"),
        ({"weight": -10.0}, "protocol.format"),
        ({"receipt": None}, "protocol.format"),
    ],
)
def test_replayed_and_malformed_updates_are_refused(changes: dict[str, Any], code: str) -> None:
    key = Ed25519PrivateKey.generate()
    with pytest.raises(ProtocolError) as caught:
        open_released(update(key, **changes), Roster({"a": public_text(key)}), BINDING)
    assert caught.value.code == code


def test_forged_and_truncated_updates_are_refused() -> None:
    key = Ed25519PrivateKey.generate()
    roster = Roster({"a": public_text(Ed25519PrivateKey.generate())})
    with pytest.raises(ProtocolError) as caught:
        open_released(update(key), roster, BINDING)
    assert caught.value.code == "protocol.signature"
    for data in (b"", update(key)[:-1], update(key)[:200]):
        with pytest.raises(ProtocolError) as caught:
            open_released(data, Roster({"a": public_text(key)}), BINDING)
        assert caught.value.code == "protocol.truncated"


def test_types_refuse_any_other_order() -> None:
    parts = {"update": LinearUpdate({"delta": np.ones((1, 3))}, 1.0)}
    for attempt in (
        lambda: PrivatisedUpdate(object(), parts, {}),
        lambda: ReleasedUpdate(object(), {}, parts, ""),
        lambda: to_artefact({}, parts),  # type: ignore[arg-type]
    ):
        with pytest.raises(PrivacyError) as caught:
            attempt()
        assert caught.value.code == "privacy.order"


def test_errors_survive_a_process_border_and_know_their_codes() -> None:
    error = ProtocolError("protocol.digest", "message", "remedy", site="a")
    kind, arguments = error.__reduce__()  # type: ignore[misc]
    again = kind(*arguments)  # type: ignore[operator]
    assert isinstance(again, ProtocolError)
    assert (again.code, again.site, str(again)) == (error.code, "a", str(error))
    with pytest.raises(ValueError, match="unknown error code"):
        FolkmootError("no.such-code", "m", "r")
    families = {kind.exit_code for kind in FolkmootError.__subclasses__()}
    assert len(families) == len(FolkmootError.__subclasses__())
