"""Direct identifiers: dropped, or replaced by keyed pseudonyms that stay at the site.

HMAC-SHA-256 with a key derived from the site's secret (RFC 2104; NIST SP 800-108 style label):
without the secret nobody can test a guess, and one person's pseudonym differs between sites and
between columns.  Pseudonyms serve the site's own bookkeeping; they never reach training.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["STABILITY", "pseudonym_key", "pseudonymise"]

#: Rows of the result that change when one row of the input does.
STABILITY = 1


def pseudonym_key(secret: bytes, column: str) -> bytes:
    """Key of a column's pseudonyms, 32 bytes, from the site's secret."""
    return hmac.digest(secret, b"folkmoot pseudonym\x00" + column.encode(), "sha256")


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
