"""Shape of noised held-out counts: what sites fill and the coordinator reads."""

from __future__ import annotations

from folkmoot.contract import Contract

__all__ = ["BINS", "shape_of"]

#: Bins of a probability, or of an error's size: few, for every bin has noise of its own.
BINS = 32


def shape_of(contract: Contract) -> tuple[int, int]:
    """Rows and columns of the table of counts: by label and bin, or by label and prediction."""
    if contract.task == "binary":
        return 2, BINS
    if contract.task == "multiclass":
        return len(contract.classes), len(contract.classes)
    return 1, BINS
