"""Sums of encrypted vectors: CKKS (Cheon et al. 2017, `doi:10.1007/978-3-319-70694-8_15`) by TenSEAL.

A ring vector of 64 bits (``folkmoot.secure.layout``) is cut into digits, each digit fills a slot, and a
site encrypts under the public key of a key pair whose secret half all sites hold.  Ciphertexts are
added; what is decrypted is rounded to whole numbers and put together modulo ``2^64``.

**Exact.**  The ring has degree 8192 and one prime ``q`` of 60 bits for data (one more for encryption,
120 bits in all; the HomomorphicEncryption.org standard allows 152 for 192-bit security).  A fresh
ciphertext is off by at most ``10 σ`` per slot, except with probability ``2^-75``: rounding by the
second prime leaves a deviation of ``sqrt(N/24 · (1 + 2N/3)) < σ = 2^11``.  A sum of ``n`` is off by
``10 σ sqrt(n)``, and ``Packing`` is only made where that is below a quarter of a step and the sum of
digits, scaled, below ``q / 2``.  Nothing is multiplied (weights were, before encryption), so that no
ciphertext is ever rescaled.  A number that is decrypted further than a quarter from a whole one is
refused: someone sent what is no digit.

**Why rounding matters.**  A decryption of CKKS shows its noise, from which the secret key can be
computed (Li and Micciancio 2021, `doi:10.1007/978-3-030-77870-5_23`).  Only whole numbers leave a site.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError, SecureError

__all__ = [
    "Cipher",
    "Packing",
    "add",
    "decrypt",
    "encrypt",
    "load",
    "new_key_pair",
    "open_key",
    "pairs",
]

#: Degree of the ring, slots of a ciphertext, bits of its primes.
DEGREE, SLOTS, PRIMES = 8192, 4096, (60, 60)
#: Bits that a scaled sum may have: a sign and one of room below the prime.
_ROOM = 58
#: Deviation of a fresh ciphertext's slots, before the scale; in deviations, what is never exceeded.
_SIGMA, _MOST = 2.0**11, 10.0
#: Longest serialised ciphertext and key that are looked at.
MOST_BYTES = 2 * DEGREE * 8 + 4096
MOST_KEY = 4 * DEGREE * 8 + 8192


@dataclass(frozen=True)
class Cipher:
    """An encrypted vector as it travels.

    Parameters
    ----------
    data : ndarray of uint8
        Serialised ciphertexts, one after the other.
    ends : ndarray of int64
        Where each of them ends.
    """

    data: NDArray[np.uint8]
    ends: NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """How numbers of 64 bits lie in slots, for sums of ``contributors``.

    Parameters
    ----------
    contributors : int
        Most contributions in a sum.
    digit : int
        Bits of a digit.
    scale : int
        A digit is multiplied by ``2^scale`` before it is encrypted.
    """

    contributors: int
    digit: int
    scale: int

    @staticmethod
    def of(contributors: int) -> Packing:
        """The fewest digits for which no sum overflows and each is exact.

        Raises
        ------
        ConfigError
            ``config.invalid`` for more sites than any digits would do for (8192).
        """
        spread = math.ceil(math.log2(max(contributors, 1)))
        for digit in (32, 22, 16):
            scale = _ROOM - digit - spread
            if 2.0**scale / 4 > _MOST * _SIGMA * math.sqrt(contributors):
                return Packing(contributors, digit, scale)
        raise ConfigError(
            "config.invalid",
            f"Encrypted sums of {contributors} sites are not exact with these parameters.",
            "Set aggregation.protection to masks.",
        )

    @property
    def digits(self) -> int:
        """Slots per number."""
        return -(-64 // self.digit)

    def ciphertexts(self, size: int) -> int:
        """How many a vector of ``size`` numbers takes."""
        return -(-size * self.digits // SLOTS)

    def split(self, vector: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Digits of all numbers, least significant first; shape (digits, numbers)."""
        mask = np.uint64(2**self.digit - 1)
        planes = [vector >> np.uint64(self.digit * i) & mask for i in range(self.digits)]
        return np.stack(planes).astype(np.int64)

    def join(self, digits: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Numbers modulo ``2^64`` of summed digits, shape (digits, numbers)."""
        total = np.zeros(digits.shape[1], np.uint64)
        for i, plane in enumerate(digits):
            total += plane.astype(np.uint64) << np.uint64(self.digit * i)
        return total


def new_key_pair() -> tuple[bytes, bytes]:
    """A new key pair, serialised: public (for whoever encrypts or adds) and secret."""
    context = _fresh()
    keep = {"save_galois_keys": False, "save_relin_keys": False}
    public = context.serialize(save_public_key=True, save_secret_key=False, **keep)
    secret = context.serialize(save_public_key=False, save_secret_key=True, **keep)
    return bytes(public), bytes(secret)


def open_key(data: bytes, *, secret: bool, site: str) -> Any:
    """A TenSEAL context of this module's parameters; protocol buffers, never pickle.

    Parameters
    ----------
    data : bytes
        As :func:`new_key_pair` gave it, from a party whose signature was checked.
    secret : bool
        Whether it must hold the secret half; it must not where it is the public one.
    site : str
        Who made it, for errors.

    Raises
    ------
    SecureError
        ``secure.key``, naming the site.
    """
    tenseal = _tenseal()
    if len(data) <= MOST_KEY:
        try:
            context = tenseal.context_from(data, 1)
            same = context.seal_context().data.key_parms_id() == _parameters()
            if same and context.has_secret_key() == secret and context.has_public_key() != secret:
                return context
        except (ValueError, RuntimeError, TypeError, IndexError):
            pass
    raise SecureError(
        "secure.key",
        f"The key for encrypted sums that site {site} made is damaged, or has other parameters.",
        "Check that all sites run the same version of folkmoot and TenSEAL; start a new run.",
        site=site,
    )


def pairs(public: Any, secret: Any) -> bool:
    """Whether a secret key opens what its public half encrypts."""
    packing = Packing.of(1)
    probe = np.arange(16, dtype=np.uint64)
    try:
        cipher = encrypt(public, probe, packing)
        found = decrypt(secret, load(public, cipher, 16, packing, "probe"), 16, packing)
        return bool((packing.join(found) == probe).all())
    except SecureError:
        return False


def encrypt(public: Any, vector: NDArray[np.uint64], packing: Packing) -> Cipher:
    """Encrypt a vector of numbers of 64 bits; O(numbers), some 62 bytes a number up to 64 sites."""
    tenseal = _tenseal()
    digits, parts = packing.split(vector).ravel().astype(np.float64), []
    for start in range(0, digits.size, SLOTS):
        block = digits[start : start + SLOTS].tolist()
        made = tenseal.ckks_vector(public, block, scale=2.0**packing.scale)
        parts.append(made)
    return _travelling(parts)


def add(
    public: Any, ciphers: Iterable[Cipher], size: int, packing: Packing, sites: Iterable[str]
) -> Cipher:
    """Sum of encrypted vectors, ciphertext by ciphertext; needs no secret; O(sites · numbers).

    Parameters
    ----------
    ciphers, sites : iterables of Cipher and of str
        From parties whose signatures were checked, and their names for errors.

    Raises
    ------
    SecureError
        ``secure.range``, naming the site, for ciphertexts of another number, length or scale.
    """
    total: list[Any] = []
    for cipher, site in zip(ciphers, sites, strict=True):
        loaded = load(public, cipher, size, packing, site)
        try:
            for one, more in zip(total, loaded, strict=bool(total)):
                one.add_(more)  # refuses another scale
        except (ValueError, RuntimeError):
            raise _unfit(site) from None
        total = total or loaded
    return _travelling(total)


def load(public: Any, cipher: Cipher, size: int, packing: Packing, site: str) -> list[Any]:
    """Ciphertexts of a vector of ``size`` numbers; raises as :func:`add`."""
    tenseal, slots = _tenseal(), size * packing.digits
    lengths = [min(SLOTS, slots - start) for start in range(0, slots, SLOTS)]
    try:
        loaded = [tenseal.ckks_vector_from(public, p) for p in _parts(cipher, len(lengths))]
        if [one.size() for one in loaded] == lengths:
            return loaded
    except (ValueError, RuntimeError, TypeError):
        pass
    raise _unfit(site)


def decrypt(secret: Any, total: Iterable[Any], size: int, packing: Packing) -> NDArray[np.int64]:
    """Exact sums of digits, shape (digits, numbers); O(numbers).

    Raises
    ------
    SecureError
        ``secure.range`` where they are not exact: a contribution held something else than digits.
    """
    key = secret.secret_key()
    found = [np.asarray(one.decrypt(key), np.float64) for one in total]
    values = np.concatenate(found) if found else np.zeros(0)
    whole = np.rint(values)
    most = packing.contributors * 2.0**packing.digit
    fit = values.size == size * packing.digits and bool(np.isfinite(values).all())
    fit = fit and bool((np.abs(values - whole) <= 0.25).all())
    if not (fit and bool(((whole >= 0) & (whole <= most)).all())):
        raise SecureError(
            "secure.range",
            "An encrypted sum does not decrypt to whole numbers in the range that its sites can reach.",
            "A contribution is damaged or forged; run the round again without the site that sent it.",
        )
    return whole.astype(np.int64).reshape(packing.digits, size)


def _travelling(parts: Iterable[Any]) -> Cipher:
    found = [np.frombuffer(part.serialize(), np.uint8) for part in parts]
    data = np.concatenate(found) if found else np.zeros(0, np.uint8)
    return Cipher(data, np.cumsum([part.size for part in found], dtype=np.int64))


def _unfit(site: str) -> SecureError:
    return SecureError(
        "secure.range",
        f"The encrypted contribution of site {site} is damaged, or of another length, scale or key "
        "than the sum's.",
        "Check that the site runs the same version of folkmoot and TenSEAL; the round can be run again "
        "without it.",
        site=site,
    )


def _parts(cipher: Cipher, count: int) -> list[bytes]:
    ends = cipher.ends
    if ends.dtype != np.int64 or ends.shape != (count,) or cipher.data.dtype != np.uint8:
        raise ValueError
    sizes = np.diff(ends, prepend=0)
    if (sizes <= 0).any() or (sizes > MOST_BYTES).any() or cipher.data.shape != (int(ends[-1]),):
        raise ValueError
    return [cipher.data[e - s : e].tobytes() for s, e in zip(sizes, ends, strict=True)]


def _fresh() -> Any:
    tenseal = _tenseal()
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=DEGREE,
        coeff_mod_bit_sizes=list(PRIMES),
        n_threads=1,
    )
    context.auto_rescale = context.auto_mod_switch = context.auto_relin = False
    return context


@lru_cache(maxsize=1)
def _parameters() -> Any:
    """SEAL's hash of the parameters that every key must have."""
    return _fresh().seal_context().data.key_parms_id()


def _tenseal() -> Any:
    try:
        import tenseal
    except ImportError:
        raise ConfigError(
            "config.installation",
            "aggregation.protection ckks needs TenSEAL, which is not installed.",
            "Install it: uv pip install -e '.[ckks]', at every site.",
        ) from None
    return tenseal
