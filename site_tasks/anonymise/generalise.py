"""Global generalisation by public hierarchies, and suppression of small equivalence classes.

Every quasi-identifier is generalised to one level for the whole table (full-domain
generalisation; Samarati & Sweeney 1998), then the rows of equivalence classes smaller than k are
suppressed.  Two passes over the file: one counts classes, one writes.

The joint with the steps around it: :func:`anonymise` turns a validated Parquet file into one that
follows ``folkmoot.generalisation.generalised(contract, …)``, without direct identifiers (or with
pseudonyms), with the original row number as column :data:`ROW` where rows were suppressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Contract
from folkmoot.conversion import changes, converted
from folkmoot.errors import DataError
from folkmoot.generalisation import (
    categories_at,
    check_levels,
    generalise_categories,
    generalise_numbers,
    is_categorical,
    level_of,
)
from folkmoot.params import Anonymisation
from site_tasks.anonymise.classes import ClassSizes, count_classes
from site_tasks.anonymise.identifiers import converted_chunks
from site_tasks.pseudonymise import pseudonym_key, pseudonymise
from site_tasks.table import ROW, row_count, schema_of, write_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Report", "anonymise", "needed", "stability"]


@dataclass(frozen=True)
class Report:
    """What anonymisation did to a table; stays at the site.

    Parameters
    ----------
    rows, suppressed : int
        Rows before, and rows left out.
    stability : int
        See :func:`stability`.
    """

    rows: int
    suppressed: int
    stability: int

    def to_dict(self) -> dict[str, int]:
        """As JSON values."""
        return asdict(self)


def stability(anonymisation: Anonymisation) -> int:
    """Most rows that one row of the input adds to the result or removes from it.

    In symmetric distance, as OpenDP counts: dropping, pseudonyms and generalisation touch each row
    alone, which is 1.  Suppression is k-stable: a row that leaves a class of k takes the k - 1
    others with it.
    """
    return anonymisation.k


def needed(contract: Contract, anonymisation: Anonymisation) -> bool:
    """Whether :func:`anonymise` would change a table at all."""
    return bool(
        anonymisation.k > 1
        or contract.with_role("direct_identifier")
        or contract.with_role("dropped")
        or any(map(changes, contract.columns))
        or any(level_of(column, anonymisation) for column in contract.columns)
    )


def anonymise(
    source: Path, target: Path, contract: Contract, anonymisation: Anonymisation, secret: bytes
) -> Report:
    """Write the anonymised table; O(rows · columns), memory O(chunk + equivalence classes).

    Parameters
    ----------
    source, target : Path
        Validated Parquet file, and the file to write.
    contract : Contract
        Roles, hierarchies.
    anonymisation : Anonymisation
        Levels, k, limit of suppression, what happens to identifiers.
    secret : bytes
        The site's secret, for pseudonyms.

    Returns
    -------
    Report

    Raises
    ------
    DataError
        ``data.suppression`` where more rows would be suppressed than the limit allows; nothing is
        written then.
    """
    check_levels(contract, anonymisation)
    rows = row_count(source)
    quasi = [column.name for column in contract.with_role("quasi_identifier")]
    sizes = None
    suppressed = 0
    if anonymisation.k > 1 and quasi:

        def passes() -> Iterator[dict[str, NDArray[Any]]]:
            for frame in converted_chunks(source, quasi, contract, anonymisation, secret):
                yield _generalise(frame, contract, anonymisation)

        sizes = count_classes(passes)
        suppressed = sizes.rows_below(anonymisation.k)
    elif rows < anonymisation.k:
        suppressed = rows  # without quasi-identifiers all rows are one class
    if suppressed > anonymisation.suppression_limit * rows:
        raise DataError(
            "data.suppression",
            f"{suppressed} of {rows} rows are in equivalence classes smaller than "
            f"k = {anonymisation.k}, more than anonymisation.suppression_limit allows.",
            "Raise anonymisation.levels, lower anonymisation.k, or raise the limit.",
        )
    fields = _fields(source, contract, anonymisation, suppressing=sizes is not None)
    write_table(target, fields, _rewritten(source, contract, anonymisation, secret, sizes))
    return Report(rows, suppressed, stability(anonymisation))


def _rewritten(
    source: Path,
    contract: Contract,
    anonymisation: Anonymisation,
    secret: bytes,
    sizes: ClassSizes | None,
) -> Iterator[pd.DataFrame]:
    import pandas as pd

    epoch = anonymisation.pseudonym_epoch
    identifiers = [column.name for column in contract.with_role("direct_identifier")]
    keys = {name: pseudonym_key(secret, name, epoch) for name in identifiers}
    dropped = {column.name for column in contract.with_role("dropped")}
    if anonymisation.identifiers == "drop":
        dropped |= keys.keys()
    names = [column.name for column in contract.columns if column.name not in dropped]
    start = 0
    for frame in converted_chunks(source, names, contract, anonymisation, secret):
        end = start + len(frame)
        values = _generalise(frame, contract, anonymisation)
        for column in contract.with_role("quasi_identifier"):
            level = level_of(column, anonymisation)
            if level and is_categorical(column):
                codes = values[column.name].astype(np.int32)
                groups = pd.Index(categories_at(column, level), dtype="str")
                frame[column.name] = pd.Categorical.from_codes(codes, groups)
            elif level:
                frame[column.name] = values[column.name]
        for name in keys.keys() - dropped:
            frame[name] = pseudonymise(frame[name], keys[name])
        if sizes is not None:
            frame[ROW] = np.arange(start, end)
        start = end
        yield frame if sizes is None else frame[sizes.of(values) >= anonymisation.k]


def _fields(
    source: Path, contract: Contract, anonymisation: Anonymisation, *, suppressing: bool
) -> pa.Schema:
    """Arrow schema of the table to write; untouched columns keep their types."""
    import pyarrow as pa

    found = schema_of(source)
    fields = []
    for column in contract.columns:
        kind = found.field(column.name).type
        if column.role == "dropped":
            continue
        if column.role == "direct_identifier":
            if anonymisation.identifiers == "drop":
                continue
            kind = pa.string()
        elif level_of(column, anonymisation):
            text = pa.dictionary(pa.int32(), pa.string())
            kind = text if is_categorical(column) else pa.float64()
        elif column.convert is not None:
            kind = pa.float64() if column.numeric else pa.string()
        fields.append(pa.field(column.name, kind))
    if suppressing:
        fields.append(pa.field(ROW, pa.int64()))
    return pa.schema(fields)


def _generalise(
    frame: pd.DataFrame, contract: Contract, anonymisation: Anonymisation
) -> dict[str, NDArray[Any]]:
    """Codes (int32, -1 missing) or midpoints (float64, NaN missing) of the quasi-identifiers."""
    out: dict[str, NDArray[Any]] = {}
    for column in map(converted, contract.with_role("quasi_identifier")):
        level = level_of(column, anonymisation)
        if is_categorical(column):
            out[column.name], _ = generalise_categories(frame[column.name], column, level)
        else:
            values = frame[column.name].to_numpy(np.float64, na_value=np.nan)
            out[column.name] = generalise_numbers(values, column, level)
    return out
