"""Turn the anonymised table into arrays on disk, split into training and held-out rows.

The table is read once in chunks and appended to ``.npy`` files, so that memory stays O(chunk) and
training maps the result.  The split depends on the row's place in the dataset alone, never on
values: a changed row changes no other row's part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from folkmoot.contract import Contract
from folkmoot.errors import DataError
from folkmoot.features import encode_frame, encode_label, feature_space
from folkmoot.generalisation import generalised
from folkmoot.params import Anonymisation, Params
from folkmoot.privacy.persons import person_column
from site_tasks.table import ROW, chunks, schema_of

__all__ = ["encode_table", "few_of_each", "held_out", "held_out_by_content"]

#: Rows of the result that change when one row of the input does.
STABILITY = 1
PARTS = ("train", "test")


def encode_table(
    source: Path, rows: int, folder: Path, contract: Contract, params: Params
) -> dict[str, int]:
    """Write a site's arrays; O(rows · d), memory O(chunk + rows bits of the split).

    Parameters
    ----------
    source : Path
        Anonymised table.
    rows : int
        Rows of the dataset before suppression.
    folder : Path
        Where ``{train,test}.npy``, ``-labels.npy`` and ``-weights.npy`` are written.
    contract, params : Contract, Params
        Of the run; the contract is the dataset's own, before generalisation.

    Returns
    -------
    dict
        Rows per part.

    Raises
    ------
    DataError
        ``data.identifier`` where a direct identifier that should be gone is in the table.
    PrivacyError
        ``privacy.mechanism`` where people cannot be told apart under unit ``person``.
    """
    _no_identifiers(source, contract, params.anonymisation)
    table = generalised(contract, params.anonymisation)
    # The table is generalised already: level 0 of its own contract.
    plain = params.anonymisation.model_copy(update={"levels": {}, "settled": None})
    kind = params.model.kind
    width = len(feature_space(table, plain, kind))
    split, weight = contract.with_role("split"), contract.with_role("weight")
    names = [column.name for column in (*contract.inputs, contract.label, *split, *weight)]
    if ROW in schema_of(source).names:
        names.append(ROW)
    holdout = params.data.holdout
    test = None if split else held_out(rows, holdout.fraction, holdout.seed)
    used = None
    if (person := person_column(params, contract)) is not None:
        used = _used(source, person, table, plain, params)
    writers: dict[str, _Writer] = {}
    start = 0
    try:
        for part in PARTS:
            label = np.int64 if contract.classes else np.float64
            writers[part] = _Writer(folder / f"{part}.npy", params.data.precision, (width,))
            writers[f"{part}-labels"] = _Writer(folder / f"{part}-labels.npy", label)
            if weight:
                writers[f"{part}-weights"] = _Writer(folder / f"{part}-weights.npy", np.float64)
        for frame in chunks(source, names):
            features = encode_frame(frame, table, plain, kind, params.data.precision)
            labels = encode_label(frame[contract.label.name], table)
            if test is None:
                mask = frame[split[0].name].to_numpy() == "test"
            elif holdout.by == "content":
                mask = held_out_by_content(features, labels, holdout.fraction, holdout.seed)
            elif ROW in names:
                mask = test[frame[ROW].to_numpy()]
            else:
                mask = test[start : start + len(frame)]
            kept = np.ones(len(frame), np.bool_) if used is None else used[start:][: len(frame)]
            start += len(frame)
            for part, chosen in (("train", ~mask & kept), ("test", mask & kept)):
                writers[part].append(features[chosen])
                writers[f"{part}-labels"].append(labels[chosen])
                if weight:
                    values = frame[weight[0].name].to_numpy(np.float64)
                    writers[f"{part}-weights"].append(values[chosen])
    finally:
        for writer in writers.values():
            writer.close()
    return {part: writers[part].rows for part in PARTS}


def held_out(rows: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which rows are kept back: a seeded permutation, independent of their values; O(rows).

    Returns
    -------
    ndarray of bool, shape (rows,)
        True for ``round(rows * fraction)`` rows, at least one and never all.
    """
    count = min(max(round(rows * fraction), 1), max(rows - 1, 0))
    mask = np.zeros(rows, np.bool_)
    mask[:count] = True
    np.random.Generator(np.random.PCG64(seed)).shuffle(mask)
    return mask


def _no_identifiers(source: Path, contract: Contract, anonymisation: Anonymisation) -> None:
    if anonymisation.identifiers == "pseudonymise":
        return
    present = set(schema_of(source).names)
    left = [c.name for c in contract.with_role("direct_identifier") if c.name in present]
    if left:
        raise DataError(
            "data.identifier",
            f"The anonymised table still holds direct identifiers: {', '.join(left)}.",
            "Remove the site's private/work folder and start again.",
        )


def held_out_by_content(
    features: NDArray[Any], labels: NDArray[Any], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which rows are kept back, each by a seeded hash of its own content alone; O(rows · d).

    Under the add-or-remove relation a split by position would not do: without one row all later
    rows take other places.  Equal rows share a side, and the share of rows held out is about
    ``fraction``.  The hash spreads rows; it hides nothing and need not.

    Returns
    -------
    ndarray of bool, shape (rows,)
    """
    return (_mixed(features, labels, seed) >> np.uint64(11)) * 2.0**-53 < fraction


def few_of_each(
    persons: NDArray[np.int64], order: NDArray[np.uint64], most: int
) -> NDArray[np.bool_]:
    """Which rows are used so that no person has more than ``most``; O(rows · log rows).

    Contribution bounding: a person's rows are chosen by ``order``, which must come from each row's
    own content, so that no person's rows decide on another's.

    Parameters
    ----------
    persons : ndarray of int64, shape (rows,)
        Code of each row's person; -1 where none is known: such a row is never used, for nobody
        could tell how many a person has.
    order : ndarray of uint64, shape (rows,)
        The lowest are used.
    most : int
        Rows per person.

    Returns
    -------
    ndarray of bool, shape (rows,)
    """
    by_person = np.lexsort((order, persons))
    sorted_ = persons[by_person]
    place = np.arange(len(sorted_)) - np.searchsorted(sorted_, sorted_, side="left")
    used = np.zeros(len(persons), np.bool_)
    used[by_person] = (place < most) & (sorted_ >= 0)
    return used


def _used(
    source: Path, person: str, table: Contract, plain: Anonymisation, params: Params
) -> NDArray[np.bool_]:
    """Rows within the bound per person, from a first pass over the table; memory O(rows)."""
    import pandas as pd

    names = [person, *(column.name for column in (*table.inputs, table.label))]
    found: list[pd.Series[Any]] = []
    order: list[NDArray[np.uint64]] = []
    for frame in chunks(source, names):
        features = encode_frame(frame, table, plain, params.model.kind, params.data.precision)
        order.append(_mixed(features, encode_label(frame[table.label.name], table), 0))
        found.append(frame[person])
    codes, _ = pd.factorize(pd.concat(found, ignore_index=True))
    return few_of_each(
        codes.astype(np.int64), np.concatenate(order), params.privacy.rows_per_person
    )


def _mixed(features: NDArray[Any], labels: NDArray[Any], seed: int) -> NDArray[np.uint64]:
    """A seeded hash of every row's own content; O(rows · d)."""
    mixed = np.full(len(features), seed, np.uint64)
    for column in (*np.asarray(features, np.float64).T, np.asarray(labels, np.float64)):
        bits = (column + 0.0).view(np.uint64)  # -0.0 is 0.0
        bits = np.where(np.isnan(column), np.uint64(1), bits)
        # splitmix64 (Steele, Lea & Flood 2014) of what was mixed so far and the next number.
        mixed = (mixed ^ bits) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


class _Writer:
    """Appends to a ``.npy`` file: its header leaves room for the first axis to grow."""

    def __init__(self, path: Path, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> None:
        self.rows = 0
        self._dtype = np.dtype(dtype)
        self._shape = shape
        self._file = path.open("wb")
        self._header()

    def append(self, values: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self.rows += len(values)

    def close(self) -> None:
        if not self._file.closed:
            self._file.seek(0)
            self._header()
            self._file.close()

    def _header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self.rows, *self._shape),
            },
        )
