"""How a benchmark tells its figures: one row each, as text for people and JSON for the table."""

from __future__ import annotations

import json
import sys

__all__ = ["MARK", "row"]

MARK = "figure: "


def row(what: str, measured: str, must: str, *, met: bool | None) -> None:
    """Print one figure.

    Parameters
    ----------
    what : str
        What was measured, with its setting.
    measured : str
        The figure, with its unit.
    must : str
        What it has to reach.
    met : bool or None
        Whether it does; None where there is nothing to reach.
    """
    values = {"what": what, "measured": measured, "must": must, "met": met}
    sys.stdout.write(MARK + json.dumps(values) + "\n")
    sys.stdout.flush()
