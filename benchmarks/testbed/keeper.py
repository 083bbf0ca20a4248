"""What a service manager does on a real machine: whatever ended is started again."""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks.testbed.bed import Testbed
from benchmarks.testbed.postgres import Postgres

__all__ = ["AGAIN", "Keeper"]

#: Seconds after which a command is started again (``deploy/systemd``).
AGAIN = 5.0


class Keeper:
    """Keeps coordinator, workers and database running.

    Parameters
    ----------
    bed : Testbed
        Whose commands are kept.
    database : Postgres
        The coordinator's.
    again : float
        Seconds after which what ended is started again.
    """

    def __init__(self, bed: Testbed, database: Postgres, again: float = AGAIN) -> None:
        self._bed, self._database, self._again, self.restarts = bed, database, again, 0
        #: Names that are not started again.
        self.away: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ended(self) -> list[str]:
        """Names of what has ended and was not started again yet."""
        running = {**self._bed.running, "postgres": self._database.process}
        return [n for n, p in running.items() if p is not None and p.poll() is not None]

    def _run(self) -> None:
        since: dict[str, float] = {}
        while not self._over.wait(0.2):
            now = time.monotonic()
            for name in self.ended():
                if name in self.away or now < since.setdefault(name, now) + self._again:
                    continue
                del since[name]
                self.restarts += 1
                if name == "postgres":
                    self._database.start()
                    continue
                said = self._bed.log(name).read_text(errors="replace")
                with (self._bed.folder / "restarts.log").open("a") as file:
                    file.write(f"--- {name}\n{said[-2000:]}\n")
                self._bed.start(name)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()
