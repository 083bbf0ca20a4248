"""Compiling of the kernels of histogram trees: Numba, cached beside the package, loaded when used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from folkmoot.errors import ConfigError

try:
    import numba
except ImportError as problem:
    raise ConfigError(
        "config.installation",
        "Summed histograms need the package numba, which is not installed.",
        "Install the extra: pip install 'folkmoot[site]' or 'folkmoot[coordinator]'.",
    ) from problem

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile at the first call; no fast mathematics: every float is rounded as written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder to cache in
        return cast(F, numba.njit(**options)(function))
