"""Compiling of the kernels of histogram trees: Numba, cached beside the package, loaded when used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError

try:
    import numba
except ImportError as problem:
    raise ConfigError(
        "config.installation",
        "Summed histograms need the package numba, which is not installed.",
        "In the checkout: uv pip install -e '.[site]', or '.[coordinator]'.",
    ) from problem

__all__ = ["compiled", "still"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile at the first call; no fast mathematics: every float is rounded as written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder to cache in
        return cast(F, numba.njit(**options)(function))


def still(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view, rows behind one another: one type for Numba, mapped from disk or not."""
    found = np.ascontiguousarray(array).view(np.ndarray)
    found.flags.writeable = False
    return found
