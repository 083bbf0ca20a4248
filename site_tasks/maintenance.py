"""Maintenance of a site: its worker stays in touch and takes no task.  Written down at the site.

Airflow keeps a worker's maintenance in its memory and at the coordinator, where a worker that was
killed is told to be offline before it starts again.  ``private/maintenance.json`` outlives both.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from site_tasks.home import SiteHome

__all__ = ["maintain", "maintenance"]


def maintenance(home: SiteHome) -> str | None:
    """The note of the site's maintenance (it may be empty); None where tasks are taken."""
    try:
        return str(json.loads(_file(home).read_text(encoding="utf-8"))["note"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "its record is damaged"  # rather no task than one that is not wanted


def maintain(home: SiteHome, on: bool, note: str | None = None) -> None:
    """Take no task any more (a task that runs goes on to its end), or take tasks again."""
    path = _file(home)
    if not on:
        path.unlink(missing_ok=True)
        return
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        # It may be the coordinator's: as much as the guard takes back, and nothing for a terminal.
        plain = "".join(c if c.isprintable() or c == "\n" else " " for c in (note or "")[:500])
        json.dump({"note": plain}, file)
    os.replace(part, path)


def _file(home: SiteHome) -> Path:
    return home.private / "maintenance.json"
