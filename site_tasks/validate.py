"""Hold a dataset to the data contract, chunk by chunk, without ever naming a value.

The file's schema is compared first (columns and types, from its footer), then pandera checks every
chunk and the broken rules are counted over the whole file.
"""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from folkmoot.contract import Column, Contract
from folkmoot.conversion import changes, convert, converted_contract
from folkmoot.errors import DataError
from folkmoot.features import encode_label
from folkmoot.generalisation import generalise_categories, is_categorical
from site_tasks.table import chunks, schema_of

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

__all__ = ["pandera_schema", "schema_faults", "validate_table"]


def validate_table(path: Path, contract: Contract) -> dict[str, int]:
    """Check a Parquet file against a contract; O(rows · columns), memory O(chunk).

    Parameters
    ----------
    path : Path
        The dataset.
    contract : Contract
        What it must hold.

    Returns
    -------
    dict
        ``rows`` of the file.

    Raises
    ------
    DataError
        ``data.missing``, ``data.unreadable``; ``data.column`` for missing, unknown and mistyped
        columns; ``data.contract`` for broken rules, each with its column and number of rows;
        ``data.one-class`` where all labels are of one class.
    """
    import pandera.pandas as pa

    _check_columns(path, contract)
    schema = pandera_schema(converted_contract(contract))
    names = [column.name for column in contract.columns if column.role != "dropped"]
    broken: Counter[tuple[str, str]] = Counter()
    classes = np.zeros(len(contract.classes), np.int64)
    rows = 0
    for frame in chunks(path, names):
        rows += len(frame)
        for column in filter(changes, contract.columns):
            frame[column.name] = convert(frame[column.name], column)
        try:
            schema.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as errors:
            for error in errors.schema_errors:
                broken[_rule(error)] += len(error.failure_cases)
        if contract.classes and not broken:
            classes += np.bincount(
                encode_label(frame[contract.label.name], contract), minlength=len(classes)
            )
    if rows == 0:
        raise DataError(
            "data.missing", "The dataset has no rows.", "Add a dataset with rows to the site."
        )
    if broken:
        faults = "; ".join(
            f"column {column}: {rule} in {count} rows"
            for (column, rule), count in sorted(broken.items())
        )
        raise DataError(
            "data.contract",
            f"Of {rows} rows some break contract {contract.name}: {faults}.",
            "Mend or remove these rows and add the dataset again, or change the contract for "
            "every site.",
        )
    if contract.classes and np.count_nonzero(classes) < 2:
        raise one_class(contract, "the dataset")
    return {"rows": rows}


def schema_faults(path: Path, contract: Contract) -> dict[str, str]:
    """Columns in which a table differs from the contract: ``absent``, ``type`` or ``values``.

    O(rows · columns), memory O(chunk); no value is told, and no name that the contract does not have.
    """
    import pandera.pandas as pa

    found = schema_of(path)
    faults: dict[str, str] = {}
    for column in contract.columns:
        if column.name not in found.names:
            faults[column.name] = "absent"
        elif found.names.count(column.name) > 1 or not _fits(found.field(column.name).type, column):
            faults[column.name] = "type"
    fit = [
        column
        for column in contract.columns
        if column.name not in faults and column.role != "dropped"
    ]
    rules = pandera_schema(converted_contract(contract))
    for frame in chunks(path, [column.name for column in fit]):
        for column in fit:
            if column.name in faults:
                continue
            try:
                one = frame[[column.name]].copy()
                if changes(column):
                    one[column.name] = convert(one[column.name], column)
                pa.DataFrameSchema({column.name: rules.columns[column.name]}).validate(one)
            except (pa.errors.SchemaError, DataError):
                faults[column.name] = "values"
    return faults


def one_class(contract: Contract, where: str) -> DataError:
    """Error for labels of one class only."""
    return DataError(
        "data.one-class",
        f"All labels ({contract.label.name}) in {where} are of one class.",
        "Add rows of another class, or leave this site out of the federation.",
    )


def pandera_schema(contract: Contract) -> pa.DataFrameSchema:
    """Rules of a contract as a pandera schema: strict, one named check per rule."""
    import pandera.pandas as pa

    columns = {
        column.name: pa.Column(None, nullable=_nullable(column), checks=_checks(column))
        for column in contract.columns
        if column.role != "dropped"
    }
    return pa.DataFrameSchema(columns, strict=True, name=contract.name)


def _nullable(column: Column) -> bool:
    return column.missing and column.role not in {"label", "split", "weight"}


def _checks(column: Column) -> list[Any]:
    import pandera.pandas as pa

    if column.role == "direct_identifier":
        return []  # never read beyond its type: it is dropped or pseudonymised
    if column.role == "split":
        return [pa.Check.isin(["train", "test"], name="neither train nor test")]
    if is_categorical(column):

        def known(series: pd.Series[Any]) -> pd.Series[Any]:
            import pandas as pd

            codes, _ = generalise_categories(series, column, 0)
            return pd.Series(codes != -2, index=series.index)

        return [pa.Check(known, name="outside the public categories")]
    checks = []
    if column.type == "integer":
        checks.append(pa.Check(lambda s: ~(s % 1 > 0), name="not a whole number"))
    if column.bounds is not None:
        checks.append(
            pa.Check.in_range(
                *column.bounds, name="outside the public bounds [{:g}, {:g}]".format(*column.bounds)
            )
        )
    if column.role == "weight":
        most = float(np.finfo(np.float64).max)
        checks.append(pa.Check.in_range(0, most, name="negative or not finite"))
    return checks


def _rule(error: pa.errors.SchemaError) -> tuple[str, str]:
    name = str(error.schema.name)
    if error.reason_code is not None and error.reason_code.name == "SERIES_CONTAINS_NULLS":
        return name, "missing"
    return name, str(getattr(error.check, "name", None) or "another rule broken")


def _check_columns(path: Path, contract: Contract) -> None:
    """Compare names and types with the file's footer; reads no row.

    Names that the contract does not have stay at the site: where a header is missing, they are the
    first row.
    """
    schema = schema_of(path)
    wanted = {column.name: column for column in contract.columns}
    known: list[str] = []
    foreign: list[str] = []
    near: list[str] = []
    for name in dict.fromkeys(schema.names):
        if name not in wanted:
            lacking = [other for other in wanted if other not in schema.names]
            close = difflib.get_close_matches(name, lacking, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            foreign.append(f"column {name} is not in the contract{hint}")
            near += close
        elif schema.names.count(name) > 1:
            known.append(f"column {name} stands twice")
    for name, column in wanted.items():
        if name not in schema.names:
            known.append(f"column {name} is missing")
        elif schema.names.count(name) == 1 and not _fits(schema.field(name).type, column):
            known.append(
                f"column {name} is of type {_plain_type(schema.field(name).type)}, the contract "
                f"says {column.type}"
            )
    if foreign or known:
        about = f"The dataset does not have the columns of contract {contract.name}: "
        meant = f" (meant for {', '.join(sorted(set(near)))}?)" if near else ""
        counted = [f"{len(foreign)} columns are not in the contract{meant}"] if foreign else []
        raise DataError(
            "data.column",
            about + "; ".join(foreign + known) + ".",
            "Rename, convert, add or remove these columns, and add the dataset again; their names "
            "stand in private/site.log.",
            outside=about + "; ".join(counted + known) + ".",
        )


def _plain_type(found: Any) -> str:
    """Without the names of inner fields, which are the site's own."""
    return str(found).partition("<")[0]


def _fits(found: Any, column: Column) -> bool:
    from pyarrow import types

    if types.is_dictionary(found):
        found = found.value_type
    if column.role == "dropped":
        return True
    if types.is_null(found):
        return _nullable(column)
    kinds = {
        "text": (types.is_string, types.is_large_string, types.is_string_view),
        "number": (types.is_integer, types.is_floating),
        "boolean": (types.is_boolean,),
        "date": (types.is_date, types.is_timestamp),
    }
    if column.role == "split":
        allowed = ["text"]
    elif is_categorical(column):
        allowed = ["text", "number", "boolean"]
    elif column.type == "date":
        allowed = ["text", "date"]
    else:
        allowed = ["text" if column.type == "text" else "number"]
    return any(test(found) for kind in allowed for test in kinds[kind])
