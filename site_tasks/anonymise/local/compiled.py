"""Compiling of the kernels: Numba, cached beside the package, no compiler on the machine.

Numba brings its own code generator (LLVM).  The first call on a machine compiles for some seconds
and keeps the result in ``__pycache__`` beside the module, or in the user's cache folder where that
is read-only, or where ``NUMBA_CACHE_DIR`` says; later processes load it in milliseconds.  Where
nothing can be written each process compiles anew.  Imported only by the kernels of this package,
which nothing but an anonymisation with local recoding loads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from folkmoot.errors import ConfigError

try:
    import numba
    from numba import types
    from numba.extending import intrinsic
except ImportError as problem:
    raise ConfigError(
        "config.installation",
        "Local recoding needs the package numba, which is not installed.",
        "Install the extra: uv pip install -e '.[site]'.",
    ) from problem

__all__ = ["Index", "compiled", "first_bit", "last_bit", "popcount"]

#: Unsigned indices spare the kernels the question whether one counts from the end.
Index = types.uintp
F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile at the first call, for the types it is called with; cached where possible."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder to cache in
        return cast(F, numba.njit(**options)(function))


def _popcount(context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


def _first(context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], context.get_constant(types.boolean, False))

    return types.int64(types.uint64), generate


def _last(context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], context.get_constant(types.boolean, False))

    return types.int64(types.uint64), generate


#: Number of bits set in a uint64.
popcount: Any = intrinsic(_popcount)
#: Number of the lowest bit set in a uint64; 64 where none is.
first_bit: Any = intrinsic(_first)
#: 63 less the number of the highest bit set in a uint64; 64 where none is.
last_bit: Any = intrinsic(_last)
