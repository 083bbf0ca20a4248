"""What a coordinator's Airflow shows of a site's task that failed: one line, and no log.

The line is a record of Airflow's own log format, so that its pages show it as they show any other:
time, level, and *code, safe sentence, remedy* of the error.  The site's worker writes it anew from
these parts; the coordinator's guard lets nothing through that has another shape.

What a site's steward allows, spent and set is nobody else's: of errors about the site's own data,
settings and budget (``config.*``, ``data.*``, ``privacy.*``) the sentence is that of the code, unless
the error has one that was written for outside.  Of folders only the last name leaves.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from folkmoot.errors import CODES, FolkmootError

__all__ = ["LOGGER", "is_told", "sentence", "told_line", "told_of"]

#: Under this name a task logs what may be told.
LOGGER = "folkmoot.told"
#: Most characters of a line.
LONGEST = 2000
_OWN = ("config.", "data.", "privacy.")
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s,;:'\"]*/)?")


def sentence(error: FolkmootError, site: str, home: str = "") -> str:
    """Code, site, safe sentence and remedy of a site's error, as the coordinator may read them.

    Parameters
    ----------
    error : FolkmootError
        What ended the task.
    site : str
        Where.
    home : str
        The site's folder, whose name stays there.
    """
    message, remedy = error.outside or error.message, error.remedy
    if error.code.startswith(_OWN):
        message = error.outside or CODES[error.code]
        remedy = f"At the site, folkmoot doctor --site {site} says more."
    text = f"{message} Remedy: {remedy}"
    if home:
        text = text.replace(f"{home}/", "").replace(home, "the site's folder")
    return f"{error.code} [{site}]: {_FOLDERS.sub('', text)}"


def told_line(event: str) -> str:
    """The line for what :func:`sentence` gave; cut where it is long."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    shown = "".join(c if c.isprintable() else " " for c in event[:LONGEST])
    shown = shown.replace("://", " ")  # Airflow's pages would make it a link
    while len(line := _line(when, shown)) > LONGEST:
        shown = shown[: len(shown) - max(1, (len(line) - LONGEST) // 6)]
    return line


def told_of(log: str) -> str | None:
    """The last error that a task's log (lines of JSON) has for telling, as a line, or None."""
    for line in reversed(log.split("\n")):
        record = _record(line)
        if record is not None and record.get("logger") == LOGGER:
            return told_line(str(record.get("event", "")))
    return None


def is_told(text: object, site: str) -> bool:
    """Whether a text is such a line to the letter, of a site's own error.

    Parameters
    ----------
    text : object
        What was sent.
    site : str
        Who sent it.
    """
    if not isinstance(text, str) or len(text) > LONGEST or not text.endswith("}\n"):
        return False
    record = _record(text)
    if record is None or not all(isinstance(value, str) for value in record.values()):
        return False
    when, event = record.get("timestamp", ""), record.get("event", "")
    # What is stored is the text: it may not say another thing than what was read from it here.
    if text != _line(when, event) or not (when.isascii() and event.isprintable()):
        return False
    code, _, rest = event.partition(f" [{site}]: ")
    return _recent(when) and code in CODES and bool(rest) and "://" not in rest


def _line(when: str, event: str) -> str:
    record = {"timestamp": when, "level": "error", "event": event, "logger": LOGGER}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _recent(when: str) -> bool:
    """A time of the form that lines have, within a day of now."""
    try:
        found = datetime.strptime(when, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    return len(when) == 20 and abs((datetime.now(UTC) - found).total_seconds()) < 86_400


def _record(line: str) -> dict[str, str] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
