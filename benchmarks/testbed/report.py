"""What left the sites, searched for what was planted."""

from __future__ import annotations

import importlib.util

from benchmarks.testbed.bed import ROOT, Testbed
from benchmarks.testbed.capture import Capture

__all__ = ["outside", "search"]


def search(places: dict[str, bytes], canaries: dict[str, str | float]) -> list[str]:
    """Canaries in what left the sites; the search is the tests' own."""
    spec = importlib.util.spec_from_file_location("leaks", ROOT / "tests" / "leaks.py")
    assert spec is not None
    assert spec.loader is not None
    leaks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(leaks)
    return leaks.leaks(places, canaries)  # type: ignore[no-any-return]


def outside(bed: Testbed, capture: Capture | None) -> dict[str, bytes]:
    """All files of the coordinator, and the capture."""
    places = {
        str(path.relative_to(bed.workspace)): path.read_bytes()
        for path in bed.workspace.rglob("*")
        if path.is_file()
    }
    if capture is not None:
        places["capture"] = bytes(capture.data)
    return places
