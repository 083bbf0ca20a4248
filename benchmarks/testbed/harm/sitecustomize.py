"""Harm at a site: Python runs this file at its start in processes whose path leads here.

Training then does what the file that ``TESTBED_HARM`` names says: ``fail`` raises an error that holds a
row, ``once`` an error of the disk that may pass, with a row in it, and only the first time; ``hang``
waits, until the worker is killed.  Nothing of the product knows of it.
"""

import errno
import importlib.abc
import importlib.machinery
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODULE, NAME = "site_tasks.train_linear", "scaled_rows"


def _harm(row: object) -> None:
    told = Path(os.environ["TESTBED_HARM"])
    kind = told.read_text() if told.exists() else ""
    if not kind:
        return
    (told.parent / f"{told.name}.seen").touch()
    words = Path(told.parent / f"{told.name}.row").read_text()
    logging.getLogger("site").error("cannot train on %s", words)
    print(words, file=sys.stderr, flush=True)
    if kind == "hang":
        while True:
            time.sleep(0.2)
    error: Exception = ValueError(f"cannot convert {words}", row)
    if kind == "once":
        told.unlink()
        error = OSError(errno.ENOSPC, words, words)
    error.add_note(words)
    raise error


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    _inner: Any

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        found = importlib.machinery.PathFinder.find_spec(name, path) if name == MODULE else None
        if found is not None:
            self._inner, found.loader = found.loader, self
        return found

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._inner.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._inner.exec_module(module)
        original = getattr(module, NAME)

        def harmed(*arguments: Any, **named: Any) -> Any:
            rows = original(*arguments, **named)
            _harm(rows)
            return rows

        setattr(module, NAME, harmed)


if os.environ.get("TESTBED_HARM"):
    sys.meta_path.insert(0, _Finder())
