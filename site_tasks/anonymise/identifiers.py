"""A site's table with dates, codes and outliers already converted, chunk by chunk.

What comes out follows ``folkmoot.conversion.converted_contract``.  Dates are shifted here, per
person, with the site's secret: a registered model converts without a shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folkmoot.contract import Column, Contract
from folkmoot.conversion import changes, convert
from folkmoot.params import Anonymisation
from site_tasks.pseudonymise import date_shifts, pseudonym_key, pseudonymise, shift_key
from site_tasks.table import chunks

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["converted_chunks", "identified_chunks", "kept_columns", "kept_fields"]


def kept_columns(
    contract: Contract, settings: Anonymisation, *, identifiers: bool = True
) -> list[str]:
    """Names of the columns that an anonymised table has; without pseudonyms where asked."""
    hidden = {"dropped"}
    if settings.identifiers == "drop" or not identifiers:
        hidden.add("direct_identifier")
    return [column.name for column in contract.columns if column.role not in hidden]


def kept_fields(
    found: pa.Schema, contract: Contract, settings: Anonymisation
) -> list[tuple[Column, Any]]:
    """These columns with their Arrow types; untouched columns keep theirs."""
    import pyarrow as pa

    kept = set(kept_columns(contract, settings))
    fields = []
    for column in contract.columns:
        if column.name not in kept:
            continue
        kind = found.field(column.name).type
        if column.role == "direct_identifier":
            kind = pa.string()
        elif column.convert is not None:
            kind = pa.float64() if column.numeric else pa.string()
        fields.append((column, kind))
    return fields


def identified_chunks(
    source: Path, contract: Contract, settings: Anonymisation, secret: bytes
) -> Iterator[pd.DataFrame]:
    """The kept columns, converted, direct identifiers as pseudonyms; memory O(chunk)."""
    epoch = settings.pseudonym_epoch
    names = kept_columns(contract, settings)
    identifiers = [c.name for c in contract.with_role("direct_identifier") if c.name in names]
    keys = {name: pseudonym_key(secret, name, epoch) for name in identifiers}
    for frame in converted_chunks(source, names, contract, settings, secret):
        for name, key in keys.items():
            frame[name] = pseudonymise(frame[name], key)
        yield frame


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
