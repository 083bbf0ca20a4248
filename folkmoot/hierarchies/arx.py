"""Hierarchies in ARX's CSV format: a line per value, its groups after it, semicolons between."""

from __future__ import annotations

import csv
from pathlib import Path

from folkmoot.errors import ConfigError
from folkmoot.hierarchies.tree import ValueHierarchy, fault

__all__ = ["read_arx", "read_rows"]

#: Larger than any hierarchy of use, and small enough to read without a second thought.
_MOST_BYTES = 64_000_000


def read_arx(path: str | Path, *, ordered: bool = False) -> ValueHierarchy:
    """Read a hierarchy as ARX writes it.

    Parameters
    ----------
    path : str or Path
        A CSV file without a header, separated by semicolons, UTF-8.
    ordered : bool
        Whether the order of its values means anything.

    Raises
    ------
    ConfigError
        ``config.missing-file`` or ``config.syntax`` for the file; ``config.hierarchy`` for uneven
        depth, gaps, repeated values, cycles and divided groups, with the row's number.
    """
    return ValueHierarchy.of_rows(read_rows(path), str(path), ordered=ordered)


def read_rows(path: str | Path) -> list[list[str]]:
    """Cells of the file without surrounding space; empty lines are passed over."""
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise fault(str(path), "is larger than 64 MB", "Generalise with widths or prefixes.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            "config.missing-file",
            f"The hierarchy {path} does not exist.",
            "Name an existing file, relative to the contract.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "config.syntax",
            f"The hierarchy {path} cannot be read ({type(error).__name__}).",
            "Save it as UTF-8 text with semicolons.",
        ) from None
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=";", strict=True))
    except csv.Error:
        raise ConfigError(
            "config.syntax",
            f"The hierarchy {path} is not CSV with semicolons.",
            "Check its quotes.",
        ) from None
    return [[cell.strip() for cell in line] for line in lines if line]
