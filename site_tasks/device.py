"""The device that XGBoost grows trees on at this site: the one asked for, or the CPU and a warning.

XGBoost goes back to the CPU by itself, and says so where nobody reads it (``verbosity`` 0 in tasks,
once per update else).  A plan names one device for all sites, of which some have no GPU.
"""

from __future__ import annotations

import ctypes
import sys
import warnings

__all__ = ["gpus", "usable_device"]


def usable_device(wanted: str) -> str:
    """``wanted`` where XGBoost can use it here, else ``cpu`` with a ``RuntimeWarning``.

    Parameters
    ----------
    wanted : str
        ``model.trees.device``: ``cpu``, ``cuda`` or ``cuda:<number>``.

    Notes
    -----
    The same rows give trees of other last digits on a GPU than on a CPU; a repeated task publishes
    the stored bytes, whatever device it finds.
    """
    if wanted == "cpu":
        return wanted
    why = _missing(int(wanted.partition(":")[2] or 0))
    if why is None:
        return wanted
    warnings.warn(
        f"model.trees.device is {wanted}, but {why}: trees are grown on the CPU.",
        RuntimeWarning,
        stacklevel=2,
    )
    return "cpu"


def _missing(number: int) -> str | None:
    """What stands in the way of GPU ``number``."""
    import xgboost

    if not xgboost.build_info().get("USE_CUDA"):
        return "this site's XGBoost is built without CUDA"
    found = gpus()
    if found == 0:
        return "this site has no GPU that CUDA's driver shows"
    return None if number < found else f"this site has no GPU of number {number}"


def gpus() -> int:
    """GPUs that CUDA's driver shows to this process (``CUDA_VISIBLE_DEVICES`` counts); 0 without one."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(name)
        failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else count.value
