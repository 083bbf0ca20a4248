"""A site's table with dates, codes and outliers already converted, chunk by chunk.

What comes out follows ``folkmoot.conversion.converted_contract``.  Dates are shifted here, per
person, with the site's secret: a registered model converts without a shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from folkmoot.contract import Contract
from folkmoot.conversion import changes, convert
from folkmoot.params import Anonymisation
from site_tasks.pseudonymise import date_shifts, shift_key
from site_tasks.table import chunks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["converted_chunks"]


def converted_chunks(
    source: Path,
    names: Sequence[str],
    contract: Contract,
    anonymisation: Anonymisation,
    secret: bytes,
) -> Iterator[pd.DataFrame]:
    """Read columns of a table and convert them; memory O(chunk).

    Parameters
    ----------
    source : Path
        Validated Parquet file.
    names : sequence of str
        Columns to read.
    contract, anonymisation : Contract, Anonymisation
        Conversions, and the epoch of date shifts.
    secret : bytes
        The site's secret.
    """
    changing = [c for c in contract.columns if c.name in names and changes(c)]
    persons = {c.convert.person for c in changing if c.convert and c.convert.person}
    keys = {p: shift_key(secret, p, anonymisation.pseudonym_epoch) for p in persons}
    read = [*names, *sorted(persons - set(names))]
    for frame in chunks(source, read):
        for column in changing:
            shift = None
            if column.convert is not None and column.convert.person is not None:
                person = column.convert.person
                shift = date_shifts(frame[person], keys[person], column.convert.shift)
            frame[column.name] = convert(frame[column.name], column, shift)
        yield frame[list(names)] if len(read) > len(names) else frame
