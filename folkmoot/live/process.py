"""A process that XGBoost may hang in: started for one session, heard line by line, and surely ended.

XGBoost's communicator waits without a limit, in code that Python cannot interrupt.  So it runs in a
process of its own, which ends when it is killed, and also when whoever started it is gone: its
standard input is then closed.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

__all__ = ["LACKING", "Child", "job", "say"]

#: What is wrong, and the remedy, where XGBoost says that it cannot do it.
LACKING = (
    "XGBoost was installed without its federated communicator (build_info: USE_FEDERATED).",
    "Install the full wheel: pip install xgboost, not xgboost-cpu.",
)

_LAST_WORDS = 20_000


class Child:
    """``python -m module``, which waits for a job (:meth:`give`) when it has imported what it needs.

    Parameters
    ----------
    module : str
        What it runs; asks for its :func:`job`.
    folder : Path
        Its working folder.
    environment : mapping, optional
        Added to this process's own.
    """

    def __init__(
        self,
        module: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        packages = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**_environment(), **(environment or {}), "PYTHONPATH": paths},
        )
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._errors: list[str] = []
        #: When it last said anything, by the monotonic clock; infinity before its first word.
        self.heard = math.inf
        self._readers = [
            threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._note, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def give(self, values: Mapping[str, Any]) -> None:
        """Hand it its job, as JSON on standard input."""
        stdin = self._process.stdin
        if stdin is not None:
            with suppress(BrokenPipeError):  # it ended at once: see `ended`
                stdin.write(json.dumps(dict(values)) + "\n")
                stdin.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is over, and all it said has been read."""
        return self._process.poll() is not None and not any(r.is_alive() for r in self._readers)

    @property
    def last_words(self) -> str:
        """The end of its standard error; may hold anything: for the private log alone."""
        return "".join(self._errors)[-_LAST_WORDS:]

    def said(self, wait: float = 0.0) -> dict[str, Any] | None:
        """Its next line, waiting up to ``wait`` seconds for one."""
        try:
            return self._lines.get(timeout=wait) if wait > 0 else self._lines.get_nowait()
        except queue.Empty:
            return None

    def stop(self) -> None:
        """End it, whatever it is doing, and wait until it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(5.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listen(self, stream: TextIO) -> None:
        with suppress(ValueError, OSError):
            for line in stream:
                self.heard = time.monotonic()
                with suppress(ValueError):
                    values = json.loads(line)
                    if isinstance(values, dict):
                        self._lines.put(values)

    def _note(self, stream: TextIO) -> None:
        with suppress(ValueError, OSError):
            for line in stream:
                self._errors.append(line)
                del self._errors[:-200]


def _environment() -> dict[str, str]:
    """This process's, without what opens the signing key: the child speaks to foreign machines."""
    return {k: v for k, v in os.environ.items() if not k.startswith("FOLKMOOT_PASSPHRASE")}


def job() -> dict[str, Any]:
    """The job, in the child; from here on it ends with whoever started it, and beats every second."""
    found: dict[str, Any] = json.loads(sys.stdin.readline())

    def follow() -> None:
        sys.stdin.read()  # ends when the other end is closed
        os._exit(3)

    def beat() -> None:
        while True:
            time.sleep(1.0)
            say(alive=True)

    for body in (follow, beat):
        threading.Thread(target=body, daemon=True).start()
    return found


_SPEAKING = threading.Lock()


def say(**values: Any) -> None:
    """One line to whoever started this process."""
    with _SPEAKING:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()
