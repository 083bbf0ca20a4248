"""People of a population table who could stand behind the rows of each class, whatever its cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from site_tasks.anonymise.coded import Coded
from site_tasks.anonymise.recoding import Recoding

__all__ = ["people_behind", "people_like"]

#: Bits of one table of people and classes.
_BITS = 2**28


def people_behind(recoding: Recoding, population: Coded) -> NDArray[np.int64]:
    """People whose quasi-identifiers the cells of a class allow.

    O(distinct people · columns · classes / 64); memory 32 MiB.

    Parameters
    ----------
    recoding : Recoding
        Of c classes.
    population : Coded
        Everybody who could be in the table, over the same columns.

    Returns
    -------
    ndarray of int64, shape (c,)
        Somebody whom several classes allow counts in each.
    """
    found = population.distinct()
    words = -(-recoding.count // 64)
    masks = []  # per column and code: which classes allow it, a bit each
    for j, column in enumerate(recoding.columns):
        allowed = np.zeros((column.size, words * 64), np.bool_)
        allowed[:, : recoding.count] = recoding.allowed(j).T
        packed = np.packbits(allowed, axis=1, bitorder="little")
        masks.append(np.ascontiguousarray(packed).view("<u8"))
    people = np.zeros(words * 64, np.int64)
    step = max(_BITS // max(words * 64, 1), 1)
    for start in range(0, len(found.counts), step):
        piece = slice(start, start + step)
        both = masks[0][found.codes[piece, 0]]
        for j, mask in enumerate(masks[1:], 1):
            both &= mask[found.codes[piece, j]]
        row, word = np.nonzero(both)  # most people are behind one class, or none
        bits = np.unpackbits(
            both[row, word].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little"
        )
        at, bit = np.nonzero(bits)
        np.add.at(people, word[at] * 64 + bit, found.counts[piece][row[at]])
    return people[: recoding.count]


def people_like(coded: Coded, population: Coded) -> NDArray[np.int64]:
    """People with the very quasi-identifiers of every row; shape (n,), O(n log n)."""
    codes = np.asfortranarray(np.concatenate([coded.codes, population.codes]))
    found = Coded(coded.columns, codes).distinct()
    people = np.bincount(found.inverse[coded.rows :], minlength=len(found.counts))
    return people[found.inverse[: coded.rows]]
