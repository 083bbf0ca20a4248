"""One thread at a time parses Python's syntax.

CPython before 3.11.9 cannot parse into :mod:`ast` in two threads at once: a change of threads in
the middle gives ``SystemError: AST constructor recursion depth mismatch`` (CPython issue 106905).
NumPy parses the header of every array that way, and :mod:`traceback` the line it points at; a
process that runs several sites (the embedded host) does both in threads.
"""

from __future__ import annotations

import threading

__all__ = ["ONE_PARSER"]

ONE_PARSER = threading.Lock()
