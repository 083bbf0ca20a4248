"""Encrypted sums: exact, equal to masked ones, and closed to whoever asks for another sum."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tenseal")

from folkmoot.errors import ConfigError, FolkmootError
from folkmoot.plan import keys
from folkmoot.secure import ckks
from folkmoot.secure.encrypted import agreed_sum, makers
from folkmoot.secure.run import session_of
from folkmoot.secure.unmask import open_list, survivor_list
from folkmoot.wire import Artefact, decode, encode
from pipelines.hosts import embedded
from pipelines.hosts.execute import execute
from site_tasks.home import SiteHome
from tests.secure.trial import BASE, SITES, Trial, model_of, settings


@pytest.fixture(scope="module")
def key_pair() -> tuple[Any, Any]:
    public, secret = ckks.new_key_pair()
    return (
        ckks.open_key(public, secret=False, site="a"),
        ckks.open_key(secret, secret=True, site="a"),
    )


@pytest.mark.parametrize("sites", [1, 4, 64, 65])
def test_sums_are_exact_whatever_the_numbers_are(key_pair: tuple[Any, Any], sites: int) -> None:
    public, secret = key_pair
    packing = ckks.Packing.of(sites)
    size = ckks.SLOTS // packing.digits + 3 if sites < 64 else 5  # ends within a ciphertext
    rng = np.random.default_rng(sites)
    vectors = rng.integers(0, 2**64, (sites, size), dtype=np.uint64)
    vectors[:, :4] = [0, 1, 2**63, 2**64 - 1]
    ciphers = [ckks.encrypt(public, v, packing) for v in vectors]
    total = ckks.add(public, ciphers, size, packing, map(str, range(sites)))
    loaded = ckks.load(public, total, size, packing, "coordinator")
    found = packing.join(ckks.decrypt(secret, loaded, size, packing))
    assert (found == vectors.sum(axis=0, dtype=np.uint64)).all()
    digits = np.concatenate([np.asarray(part.decrypt(secret.secret_key())) for part in loaded])
    off = np.abs(digits - np.rint(digits)).max() * 2.0**packing.scale
    assert 0 < off < 10 * 2.0**11 * np.sqrt(sites) < 2.0**packing.scale / 4  # as proven


def test_the_bound_holds_for_every_number_of_sites() -> None:
    for sites in (1, 2, 3, 64, 65, 1000, 8192):
        packing = ckks.Packing.of(sites)
        assert sites * 2**packing.digit * 2**packing.scale <= 2**58
        assert 10 * 2**11 * sites**0.5 < 2**packing.scale / 4
        assert packing.digits * packing.digit >= 64
    with pytest.raises(ConfigError):
        ckks.Packing.of(10**6)


def test_what_is_no_encrypted_vector_names_its_site(key_pair: tuple[Any, Any]) -> None:
    public, secret = key_pair
    packing, vector = ckks.Packing.of(2), np.arange(10, dtype=np.uint64)
    good = ckks.encrypt(public, vector, packing)
    flipped = good.data.copy()
    flipped[good.data.size // 2 :] ^= 255
    longer = ckks.encrypt(public, np.arange(11, dtype=np.uint64), packing)
    coarse = ckks.encrypt(public, vector, ckks.Packing(2, 32, packing.scale - 1))
    for bad in (
        ckks.Cipher(good.data[:-1], good.ends),
        ckks.Cipher(good.data, good.ends[:0]),
        ckks.Cipher(np.zeros(0, np.uint8), np.zeros(1, np.int64)),
        ckks.Cipher(np.zeros(ckks.MOST_BYTES + 1, np.uint8), np.array([ckks.MOST_BYTES + 1])),
        ckks.Cipher(flipped, good.ends),
        longer,
        coarse,
    ):
        with pytest.raises(FolkmootError) as caught:
            ckks.add(public, [good, bad], 10, packing, ["a", "b"])
        assert (caught.value.code, caught.value.site) == ("secure.range", "b")
    import tenseal

    forged = tenseal.ckks_vector(public, [0.5] * 20, scale=2.0**packing.scale).serialize()
    cipher = ckks.Cipher(np.frombuffer(forged, np.uint8), np.array([len(forged)]))
    total = ckks.add(public, [good, cipher], 10, packing, ["a", "b"])
    loaded = ckks.load(public, total, 10, packing, "coordinator")
    with pytest.raises(FolkmootError) as caught:  # nothing but whole numbers is ever shown
        ckks.decrypt(secret, loaded, 10, packing)
    assert caught.value.code == "secure.range"


def test_keys_are_not_taken_on_trust() -> None:
    public, secret = ckks.new_key_pair()
    weak = pytest.importorskip("tenseal").context(
        pytest.importorskip("tenseal").SCHEME_TYPE.CKKS,
        poly_modulus_degree=4096,
        coeff_mod_bit_sizes=[40, 40],
    )
    other = weak.serialize(save_galois_keys=False, save_relin_keys=False)
    for data, kind in (
        (secret, False),
        (public, True),
        (b"", False),
        (public[:-20], False),
        (other, False),
        (bytes(ckks.MOST_KEY + 1), False),
    ):
        with pytest.raises(FolkmootError) as caught:
            ckks.open_key(data, secret=kind, site="b")
        assert (caught.value.code, caught.value.site) == ("secure.key", "b")
    strange = ckks.open_key(ckks.new_key_pair()[1], secret=True, site="b")
    assert not ckks.pairs(ckks.open_key(public, secret=False, site="b"), strange)


def test_answers_must_agree() -> None:
    def told(*numbers: int) -> bytes:
        return encode(Artefact("secure-sum", {}, {"sum": np.array(numbers, np.uint64)}))

    total, odd = agreed_sum({"a": told(1, 2), "b": told(1, 2), "c": told(9, 9)}, 2, 2)
    assert (total.tolist(), odd) == ([1, 2], ["c"])
    for answers, code in (
        ({"a": told(1, 2), "b": told(1, 3)}, "secure.share"),
        ({"a": told(1, 2)}, "secure.threshold"),
        ({"a": told(1, 2), "b": b"x"}, "secure.share"),
    ):
        with pytest.raises(FolkmootError) as caught:
            agreed_sum(answers, 2, 2)
        assert caught.value.code == code


def test_one_of_those_who_make_keys_is_left_at_the_quorum() -> None:
    assert makers(SITES, 5) == SITES[:1]
    assert makers(SITES, 3) == SITES[:3]


@pytest.fixture(scope="module")
def runs(
    prototype: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A run under encryption, one under masks, and one that stands before the first answer."""
    root = tmp_path_factory.mktemp("encrypted")
    masked, params = (settings(rounds=1, aggregation={"protection": p}) for p in ("masks", "ckks"))
    for name in ("masks", "open"):
        shutil.copytree(prototype(params), root / name, symlinks=True)
    embedded.run(masked, run="r", workspace=root / "masks")
    made = Trial(params, root / "open")
    made.walk("prepare/", "setup/", "round-000/")
    made.walk("round-001/", until="unmask")
    shutil.copytree(root / "open", root / "ckks", symlinks=True)
    embedded.run(params, run="r", workspace=root / "ckks")
    return {name: root / name for name in ("ckks", "masks", "open")}


def test_an_encrypted_run_equals_the_masked_run_bit_for_bit(runs: dict[str, Path]) -> None:
    found = {}
    for name in ("ckks", "masks"):
        folder = runs[name] / "exchange" / "demo" / "runs" / "r"
        result = json.loads((folder / keys.RESULT).read_text())
        found[name] = model_of(runs[name], {**result, "run": "r"}).arrays, result["metrics"]
    (one, metrics), (other, same) = found["ckks"], found["masks"]
    assert all(array.tobytes() == other[name].tobytes() for name, array in one.items())
    assert metrics == same
    folder = runs["ckks"] / "exchange" / "demo" / "runs" / "r"
    report = json.loads((folder / keys.record(1)).read_text())["secure"]
    assert report["protection"] == "ckks"
    assert 100_000 < report["ciphertext_bytes"] < 400_000
    assert (report["silent"], report["contradicting"]) == ([], [])


def test_the_secret_key_lies_at_the_sites_and_nowhere_else(runs: dict[str, Path]) -> None:
    held = next((runs["ckks"] / "sites" / "site-b").rglob("held"))
    assert held.stat().st_mode & 0o077 == 0
    secret = decode(held.read_bytes(), kind="secure-held").arrays["secret"].tobytes()
    parts = [secret[i : i + 64] for i in range(1000, len(secret) - 64, 20_000)]
    for path in (runs["ckks"] / "exchange").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(part in data for part in parts), path


def _trial(runs: dict[str, Path], target: Path) -> Trial:
    shutil.copytree(runs["open"], target, symlinks=True)
    return Trial(settings(rounds=1, aggregation={"protection": "ckks"}), target)


def _lies(trial: Trial) -> dict[str, bytes]:
    """Encrypted sums of round 1 that a lying coordinator might send; it has uploads and public key."""
    folder = [decode(trial.path(keys.update(1, s)).read_bytes()[:-84]) for s in SITES]
    ciphers = [ckks.Cipher(u.arrays["cipher"], u.arrays["ends"]) for u in folder]
    offer = decode(trial.path(keys.secure("shares", SITES[0])).read_bytes()[:-84])
    public = ckks.open_key(offer.arrays["public"].tobytes(), secret=False, site=SITES[0])
    true = decode(trial.path(keys.total("round-001")).read_bytes())
    size, packing = true.meta["size"], ckks.Packing.of(len(SITES))
    one = np.zeros(size + 1, np.uint64)
    one[0] = 1
    extra = ckks.encrypt(public, one, packing)

    def told(*chosen: ckks.Cipher) -> bytes:
        names = [str(i) for i in range(len(chosen))]
        made = ckks.add(public, chosen, size + 1, packing, names)
        arrays: dict[str, Any] = {"cipher": made.data, "ends": made.ends}
        return encode(Artefact("secure-total", {"size": size}, arrays))

    return {
        "one site's alone": told(ciphers[0]),
        "one site's five times": told(*[ciphers[0]] * 5),
        "four of the five": told(*ciphers[:4]),
        "one of them twice": told(*ciphers, ciphers[0]),
        "with a number of its own": told(*ciphers, extra),
        "of the statistics": trial.path(keys.total("round-000")).read_bytes(),
    }


@pytest.mark.parametrize("lie", range(6))
def test_nothing_but_the_sum_of_the_listed_sites_is_decrypted(
    runs: dict[str, Path], tmp_path: Path, lie: int
) -> None:
    trial = _trial(runs, tmp_path / "trial")
    true, lies = trial.path(keys.total("round-001")).read_bytes(), _lies(trial)
    assert len(lies) == 6
    trial.path(keys.total("round-001")).write_bytes(list(lies.values())[lie])
    with pytest.raises(FolkmootError) as caught:
        execute(trial.plan.step("round-001/unmask/site-b"), trial.fresh())
    assert caught.value.code in {"secure.survivors", "secure.range"}  # too many digits: range
    assert not trial.path(keys.answer("round-001", "site-b")).exists()
    # and there is no second attempt, not even with the true one
    trial.path(keys.total("round-001")).write_bytes(true)
    trial.refused("round-001/unmask/site-b", "secure.again", "second encrypted sum")


def test_no_site_is_shown_another_sites_ciphertext(runs: dict[str, Path]) -> None:
    """A site has the secret key: what it reads must be sums."""
    trial = Trial(settings(rounds=1, aggregation={"protection": "ckks"}), runs["open"])
    seen: list[str] = []
    read = type(trial.context.store).find

    def noted(store: Any, key: str) -> Any:
        seen.append(key)
        return read(store, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trial.context.store), "find", noted)
        execute(trial.plan.step("round-001/unmask/site-c"), trial.fresh())
    others = [f"-{site}" for site in SITES if site != "site-c"]
    foreign = [k for k in seen if k.endswith(tuple(others)) and "/secure/keys-" not in k]
    assert any(key.endswith("round-001/total") for key in seen)
    assert foreign == []


def test_sums_that_differ_by_one_site_are_not_opened_both(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    trial = _trial(runs, tmp_path / "trial")
    whole = trial.path(keys.survivors("round-001")).read_bytes()
    binding = session_of(trial.fresh()).binding(trial.plan.step("round-001/unmask/site-a").round)
    statements = open_list(whole, binding)
    statements.pop("site-e")
    for site in ("site-a", "site-b"):
        execute(trial.plan.step(f"round-001/unmask/{site}"), trial.fresh())
    trial.path(keys.survivors("round-001")).write_bytes(survivor_list(binding, statements))
    fewer = _lies(trial)["four of the five"]  # which is the true sum of this list
    trial.path(keys.total("round-001")).write_bytes(fewer)
    for site in ("site-c", "site-d"):
        execute(trial.plan.step(f"round-001/unmask/{site}"), trial.fresh())
    trial.refused("round-001/aggregate", "secure.threshold", "nothing of it was revealed")
    trial.path(keys.survivors("round-001")).write_bytes(whole)
    trial.refused("round-001/aggregate", "secure.threshold", "nothing of it was revealed")


def test_a_site_that_insists_on_masks_takes_no_part(runs: dict[str, Path], tmp_path: Path) -> None:
    from site_tasks.settings import save_settings

    trial = _trial(runs, tmp_path / "trial")
    home = SiteHome.find("site-a", trial.workspace)
    allowed = home.settings.permissions.model_copy(update={"insist_on_masks": True})
    save_settings(
        home.settings.model_copy(update={"permissions": allowed}), home.root / "site.toml"
    )
    trial.refused("round-001/unmask/site-a", "privacy.not-permitted", "insist_on_masks")


@pytest.mark.parametrize(
    "more",
    [
        {"model": {"kind": "trees"}},
        {"aggregation": {"protection": "ckks", "colluding": 0.1, "failing": 0.1}},
    ],
)
def test_plans_that_encryption_cannot_serve(more: dict[str, Any]) -> None:
    from folkmoot.params import parse_params

    with pytest.raises(ConfigError):
        parse_params({**BASE, "aggregation": {"protection": "ckks"}, **more})
