"""What a coordinator's Airflow shows of a site's task that failed: one line, and no log.

The line is a record of Airflow's own log format, so that its pages show it as they show any other:
time, level, and *code, safe sentence, remedy* of the error as it crosses the site's border
(:meth:`folkmoot.errors.FolkmootError.crossing`).  The site's worker writes it anew from these
parts; the coordinator's guard lets nothing through that has another shape.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from folkmoot.errors import CODES

__all__ = ["LOGGER", "is_told", "told_line", "told_of"]

#: Under this name a task logs what may be told.
LOGGER = "folkmoot.told"
#: Most characters of a line.
LONGEST = 2000
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)")


def told_line(event: str) -> str:
    """The line for an error's text, ``code [site]: sentence Remedy: remedy``; cut where it is long."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    shown = "".join(c if c.isprintable() else " " for c in event)[: LONGEST - 300]
    record = {"timestamp": when, "level": "error", "event": shown, "logger": LOGGER}
    return json.dumps(record, ensure_ascii=False) + "\n"


def told_of(log: str) -> str | None:
    """The last error that a task's log (lines of JSON) has for telling, as a line, or None."""
    for line in reversed(log.splitlines()):
        record = _record(line)
        if record is not None and record.get("logger") == LOGGER:
            return told_line(str(record.get("event", "")))
    return None


def is_told(text: object, site: str) -> bool:
    """Whether a text is such a line, of a site's own error and no other shape.

    Parameters
    ----------
    text : object
        What was sent.
    site : str
        Who sent it.
    """
    if not isinstance(text, str) or len(text) > LONGEST or not text.endswith("}\n"):
        return False
    record = _record(text[:-1])
    if record is None or set(record) != {"timestamp", "level", "event", "logger"}:
        return False
    if not all(isinstance(value, str) and value.isprintable() for value in record.values()):
        return False
    code, _, rest = record["event"].partition(f" [{site}]: ")
    return (
        record["level"] == "error"
        and record["logger"] == LOGGER
        and _TIME.fullmatch(record["timestamp"]) is not None
        and code in CODES
        and bool(rest)
        and "://" not in rest  # Airflow's pages would make it a link
    )


def _record(line: str) -> dict[str, str] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
