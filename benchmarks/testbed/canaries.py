"""Rows with planted names, numbers and measurements, and what of them must be found nowhere else."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.testbed.network import SITES

__all__ = ["IDENTIFIERS", "canaries", "deal", "row"]

#: Column of the public recipe whose first value is planted, and how many more make a record's values.
COLUMN, WIDTH = "mean_radius", 6
#: Columns that are put before the recipe's.
IDENTIFIERS = (("patient", "text"), ("record", "integer"))
_EPOCH = b"folkmoot pseudonym\x00"


def deal(folder: Path) -> None:
    """Each site's rows, ``<folder>/<site>/rows.parquet``, from the public recipe."""
    import pandas as pd

    from folkmoot.params import parse_params
    from pipelines.recipes import load, partition

    params = parse_params({"federation": {"sites": list(SITES)}})
    frame, contract = load("breast_cancer", params.data)
    parts: dict[str, pd.DataFrame] = partition(frame, contract, params)
    for number, (site, dealt) in enumerate(parts.items()):
        (folder / site).mkdir()
        rows = dealt.reset_index(drop=True)
        word, digits = secrets.token_hex(6), 10**7 + secrets.randbelow(9 * 10**7)
        names = [f"Canary-{site}-{word}-{i:03d}" for i in range(len(rows))]
        rows.insert(0, "patient", names)
        rows.insert(1, "record", [digits * 10**4 + i for i in range(len(rows))])
        rows.loc[0, COLUMN] = _odd(7.2 + number / 5)
        rows.to_parquet(folder / site / "rows.parquet", index=False)


def _odd(near: float) -> float:
    """A number whose decimals, as float32 too, are more than a time of day has."""
    while True:
        value = near + secrets.randbelow(10**9) / 1e10
        if len(str(np.float32(value)).partition(".")[2]) >= 7:
            return value


def row(folder: Path, site: str) -> Any:
    """The first of a site's rows, in which all is planted (a DataFrame of one row)."""
    import pandas as pd

    return pd.read_parquet(folder / site / "rows.parquet").head(1)


def canaries(folder: Path, home: Path | None = None) -> dict[str, str | float | bytes]:
    """What must not be found outside the sites.

    Parameters
    ----------
    folder : Path
        Where :func:`deal` wrote.
    home : Path, optional
        Name of the sites' folders in theirs: with keys and pseudonyms, once the sites are made.

    Returns
    -------
    dict of str to str, float or bytes
        By what it is: the beginning that all names and all record numbers of a site share, the odd
        measurement, a record's values as CSV and as columns in memory, hashes that would test a guess,
        secrets.
    """
    import pandas as pd

    found: dict[str, str | float | bytes] = {}
    for site in SITES:
        rows = pd.read_parquet(folder / site / "rows.parquet")
        name, number = str(rows["patient"].iloc[0]), int(rows["record"].iloc[0])
        found[f"names of {site}"] = name[: -len("000")]
        found[f"record numbers of {site}"] = str(number)[:-4]
        for code in ("<i8", ">i8"):
            found[f"a record number of {site}, {code}"] = np.array(number, code).tobytes()
        found[f"an odd value of {site}"] = float(rows[COLUMN].iloc[0])
        start = list(rows.columns).index(COLUMN)
        table = rows[rows.columns[start : start + WIDTH]].to_numpy(np.float64)
        found[f"a record of {site} in CSV"] = ",".join(repr(float(v)) for v in table[0])
        for code in ("<f8", "<f4"):
            found[f"a column of {site}, {code}"] = table[:4, 1].astype(code).tobytes()
            found[f"a record of {site}, {code}"] = table[0].astype(code).tobytes()
        for text in (name, str(number)):
            for kind in ("md5", "sha1", "sha256"):
                digest = hashlib.new(kind, text.encode()).digest()
                found[f"plain {kind} of {text[-4:]} of {site}"] = digest
        if home is not None:
            found |= _secrets(folder / site / home, site, name)
    return found


def _secrets(home: Path, site: str, name: str) -> dict[str, bytes]:
    secret = (home / "private" / "secret.key").read_bytes()
    key = hmac.digest(secret, _EPOCH + b"patient", "sha256")
    data = (home / "data" / "dataset.parquet").read_bytes()
    return {
        f"secret of {site}": secret,
        f"signing key of {site}": (home / "private" / "signing.key").read_bytes(),
        f"a pseudonym of {site}": hmac.digest(key, name.encode(), "sha256"),
        **{
            f"plain {kind} of {site}'s dataset": hashlib.new(kind, data).digest()
            for kind in ("md5", "sha1", "sha256")
        },
    }
