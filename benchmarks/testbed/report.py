"""What left the sites, opened, and searched for what was planted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.capture import Capture
from benchmarks.testbed.messages import bodies
from benchmarks.testbed.on_purpose import CHANNELS, Leak
from benchmarks.testbed.postgres import Postgres
from benchmarks.testbed.streams import connections
from benchmarks.testbed.tls import opened, session_keys
from tests.leaks import leaks

__all__ = ["DATABASES", "Line", "at_site", "databases", "open_line", "outside", "searched"]

#: Airflow's and MLflow's.
DATABASES = ("airflow", "mlflow")


@dataclass
class Line:
    """What the capture holds once it is opened.

    Attributes
    ----------
    places : dict of str to bytes
        Per connection what went up and down, records joined, and the bodies of all HTTP messages.
    connections, records, read, plain : int
        Connections; encrypted records behind the handshakes, how many could be opened, and the bytes
        of plaintext.
    faults : list of str
        Connections that could not be opened, or not wholly, and why.
    """

    places: dict[str, bytes] = field(default_factory=dict)
    connections: int = 0
    records: int = 0
    read: int = 0
    plain: int = 0
    faults: list[str] = field(default_factory=list)


def open_line(bed: Testbed, capture: Capture) -> Line:
    """Decrypt a capture with the session keys that were written down."""
    keys: dict[tuple[str, bytes], bytes] = {}
    for name in bed.keyed:
        keys |= session_keys(bed.session_keys(name).read_text().splitlines())
    made = Line()
    for number, one in enumerate(connections(capture.packets, capture.ports)):
        if not one.sent and not one.received:
            continue  # refused, or nothing but a knock
        text = opened(one.sent, one.received, keys)
        made.connections += 1
        made.records, made.read = made.records + text.records, made.read + text.read
        made.plain += len(text.sent) + len(text.received)
        for fault in (text.fault, None if one.whole else "parts of it were not captured"):
            if fault is not None and text.read < text.records:
                made.faults.append(f"{one.name}: {fault}")
        label = f"line {number} {one.name}"
        made.places |= {f"{label} up": text.sent, f"{label} down": text.received}
        made.places |= {f"{label} {n}": b for n, b in bodies(text.sent, text.received) if b}
        # As it was on the line: what is not encrypted, or only in part, is found too.
        made.places[f"{label} as sent"] = one.sent + one.received
    return made


def outside(bed: Testbed, database: Postgres | None) -> dict[str, bytes]:
    """All files of the coordinator with their names, what it said, and its databases row by row."""
    places: dict[str, bytes] = {"coordinator.log": bed.log("coordinator").read_bytes()}
    for path in sorted(bed.workspace.rglob("*")):
        name = str(path.relative_to(bed.workspace))
        places[f"name of {name}"] = name.encode()
        if path.is_file() and not path.is_symlink():
            places[name] = path.read_bytes()
    for file in sorted(bed.workspace.rglob("*.db")):
        places |= databases(f"sqlite:///{file}", f"database {file.stem}")
    if database is not None:
        for name in DATABASES:
            places |= databases(database.url(name), f"database {name}")
        places["PostgreSQL's log"] = (database.folder / "log").read_bytes()
    return places


def databases(url: str, name: str) -> dict[str, bytes]:
    """Every table of a database, row by row: in its files a long value may lie in pieces."""
    from sqlalchemy import create_engine, inspect

    engine, places = create_engine(url), {}
    try:
        with engine.connect() as connection:
            for table in inspect(connection).get_table_names():
                rows = connection.exec_driver_sql(f'SELECT * FROM "{table}"')
                text = b"\n".join(b"\t".join(map(_bytes, one)) for one in rows)
                places[f"{name}/{table}"] = text
    finally:
        engine.dispose()
    return places


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    return (json.dumps(value) if isinstance(value, dict | list) else str(value)).encode()


def searched(
    places: Mapping[str, bytes],
    canaries: Mapping[str, str | float | bytes],
    made: Sequence[Leak],
) -> tuple[list[str], list[str]]:
    """What was planted in sites' rows and found, and leaks on purpose not found where they were made."""
    names = [f"{leak.channel}, {leak.form}" for leak in made]
    needles = dict(zip(names, (leak.needle for leak in made), strict=True))
    lines = [line.partition(": ")[::2] for line in leaks(places, {**canaries, **needles})]
    found = [f"{place}: {what}" for place, what in lines if not what.startswith(tuple(names))]
    seen = {
        name
        for name, leak in zip(names, made, strict=True)
        for place, what in lines
        if what.startswith(f"{name} (") and _belongs(place, CHANNELS[leak.channel])
    }
    return found, [name for name in names if name not in seen]


def _belongs(place: str, where: str) -> bool:
    return where in place and not place.startswith("name of ") and "as sent" not in place


def at_site(bed: Testbed, site: str) -> bytes:
    """What a site keeps of its steps' errors."""
    log: Path = bed.home(site) / "private" / "site.log"
    return log.read_bytes() if log.exists() else b""
