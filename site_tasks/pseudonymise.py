"""Direct identifiers: dropped, or replaced by keyed pseudonyms that stay at the site.

HMAC-SHA-256 with a key derived from the site's secret (RFC 2104; NIST SP 800-108 style label):
without the secret nobody can test a guess, and one person's pseudonym differs between sites and
between columns.  It is the same in every version of a dataset until the stated epoch changes, which
rotates all of them.  Pseudonyms serve the site's own bookkeeping; they never reach training.

Dates of one person are shifted together by days drawn from the same secret ("shift and truncate",
Hripcsak et al. 2016), so that intervals between them stay.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["STABILITY", "date_shifts", "pseudonym_key", "pseudonymise", "shift_key"]

#: Rows of the result that change when one row of the input does.
STABILITY = 1


def pseudonym_key(secret: bytes, column: str, epoch: int = 0) -> bytes:
    """Key of a column's pseudonyms in an epoch, 32 bytes, from the site's secret."""
    return hmac.digest(secret, _label(b"pseudonym", column, epoch), "sha256")


def shift_key(secret: bytes, person: str, epoch: int = 0) -> bytes:
    """Key of the date shifts of the people that column ``person`` names, 32 bytes."""
    return hmac.digest(secret, _label(b"date shift", person, epoch), "sha256")


def date_shifts(person: pd.Series[Any], key: bytes, most: int) -> NDArray[np.int64]:
    """Days by which each row's dates are shifted; O(n + people).

    Parameters
    ----------
    person : pandas.Series, shape (n,)
        Identifier of the person; compared by its text.  Rows without one share a shift.
    key : bytes
        From :func:`shift_key`.
    most : int
        Shifts lie in [-most, most], uniformly to 2⁻⁴⁸.

    Returns
    -------
    ndarray of int64, shape (n,)
        Stability: 1-stable per row.
    """
    import pandas as pd

    codes, uniques = pd.factorize(person)
    # The last entry serves index -1: rows without an identifier.
    macs = [hmac.digest(key, str(v).encode(), "sha256") for v in [*uniques.tolist(), ""]]
    width = 2 * most + 1
    shifts = np.array([int.from_bytes(mac[:8], "big") % width - most for mac in macs], np.int64)
    return shifts[codes]


def _label(use: bytes, column: str, epoch: int) -> bytes:
    """Names what a key is for; epoch 0 adds nothing."""
    stated = b"\x00epoch %d" % epoch if epoch else b""
    return b"folkmoot " + use + b"\x00" + column.encode() + stated


def pseudonymise(series: pd.Series[Any], key: bytes) -> pd.Series[Any]:
    """Replace every value by its pseudonym; O(n + distinct values).

    Parameters
    ----------
    series : pandas.Series, shape (n,)
        Identifiers; they are compared by their text.
    key : bytes
        From :func:`pseudonym_key`.

    Returns
    -------
    pandas.Series of str, shape (n,)
        64 hex characters each; missing stays missing.
    """
    import pandas as pd

    inner = hmac.new(key, digestmod=hashlib.sha256)

    def one(value: object) -> str:
        mac = inner.copy()  # saves hashing the key again
        mac.update(str(value).encode())
        return mac.hexdigest()

    codes, uniques = pd.factorize(series)
    names = np.array([*(one(value) for value in uniques.tolist()), None], dtype=object)
    return pd.Series(names[codes], index=series.index, dtype="str")
