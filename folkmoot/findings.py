"""What a check of an installation found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from folkmoot.errors import FolkmootError

__all__ = ["Finding", "found"]

State = Literal["ok", "warning", "fault", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of ``folkmoot doctor``.

    Parameters
    ----------
    what : str
        What was checked.
    state : {"ok", "warning", "fault", "skipped"}
        Only a fault ends the command with an error.
    detail : str
        What was found, without data values or secrets.
    remedy : str
        What to do about a warning or fault.
    """

    what: str
    state: State
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)


def found(what: str, check: Callable[[], Finding | str]) -> Finding:
    """Run a check; an expected error becomes a fault with its remedy.

    Parameters
    ----------
    what : str
        What is checked.
    check : callable
        Returns a finding, or the detail of a good one.
    """
    try:
        result = check()
    except FolkmootError as error:
        return Finding(what, "fault", error.message, error.remedy)
    return Finding(what, "ok", result) if isinstance(result, str) else result
