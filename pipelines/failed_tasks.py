"""The doctor's look at sites' tasks that failed, through the lines that their workers sent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from folkmoot.findings import Finding
from folkmoot.told import told_of

__all__ = ["check_failed_tasks"]

#: Seconds that are looked back.
_DAY = 86_400.0
#: The end of a log in which the line is looked for, in bytes.
_LOOK = 64 * 1024


def check_failed_tasks(logs: Path) -> Iterator[Finding]:
    """Errors that ended sites' tasks within a day, by site and code: the newest of each; O(logs).

    Parameters
    ----------
    logs : Path
        Airflow's folder of task logs.

    Yields
    ------
    Finding
    """
    newest: dict[str, tuple[int, float, str, str]] = {}
    for log in logs.glob("dag_id=*/run_id=*/task_id=*/**/attempt=*.log"):
        written = log.stat().st_mtime
        if written < time.time() - _DAY:
            continue
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOOK))
            line = told_of(file.read().decode("utf-8", "replace"))
        if line is None:
            continue
        where = "/".join(p.partition("=")[2] for p in log.relative_to(logs).parts[1:3])
        head, _, sentence = json.loads(line)["event"].partition("]: ")
        code, _, site = head.partition(" [")
        what = f"{site}: {code}"
        count, last, *_ = newest.get(what, (0, 0.0))
        if written >= last:
            newest[what] = count + 1, written, where, sentence
        else:
            newest[what] = (count + 1, *newest[what][1:])
    for what, (count, written, where, sentence) in sorted(newest.items()):
        said, _, remedy = sentence.partition(" Remedy: ")
        when = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(written))
        yield Finding(
            what,
            "warning",
            f"{count} tasks failed within a day, the last {when} {where}: {said}",
            remedy or "What the code means: docs/reference/errors.md.",
        )
