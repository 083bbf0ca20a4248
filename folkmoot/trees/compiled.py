"""Compiling of the kernels of histogram trees: Numba, cached beside the package, loaded when used.

:func:`add_pair` is for kernels alone: gradient and Hessian are added in one step of the processor,
where Numba would take two, which is a quarter of a histogram's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from folkmoot.errors import ConfigError

try:
    import numba
    from llvmlite import ir  # type: ignore[import-untyped]  # comes with numba
    from numba import types
    from numba.extending import intrinsic
except ImportError as problem:
    raise ConfigError(
        "config.installation",
        "Summed histograms need the package numba, which is not installed.",
        "In the checkout: uv pip install -e '.[site]', or '.[coordinator]'.",
    ) from problem

__all__ = ["add_pair", "compiled", "still"]

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


_PAIR = ir.VectorType(ir.IntType(64), 2)


def _add_pair(typing: Any, array: Any, at: Any, first: Any, second: Any) -> Any:

    def make(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        own, place, *numbers = values
        data = context.make_array(signature.args[0])(context, builder, own).data
        pair = builder.bitcast(builder.gep(data, [place]), _PAIR.as_pointer())
        step = ir.Constant(_PAIR, ir.Undefined)
        for lane, number in enumerate(numbers):
            step = builder.insert_element(step, number, ir.Constant(ir.IntType(32), lane))
        before = builder.load(pair)
        before.align = 8
        builder.store(builder.add(before, step), pair).align = 8
        return context.get_dummy_value()

    return types.void(array, at, first, second), make


#: ``add_pair(array, at, first, second)``: ``array[at] += first; array[at + 1] += second`` of a
#: contiguous int64 array of one dimension; nothing is checked.
add_pair: Any = intrinsic(_add_pair)
