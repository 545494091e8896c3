"""How much memory a call adds at its peak, as the kernel counts it."""

import ctypes
import gc
import math
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
# From this many bytes on NumPy requests huge pages.
HUGE_BYTES = 4 << 20


def call_and_measure(call: Callable[[], Any]) -> tuple[Any, int | None]:
    """Call a function and measure by how much the process grows meanwhile.

    The highest resident size during the call, less the resident size before it; the result is part
    of it. Memory that the process had freed but kept is given back first, so that its second use
    counts as well.

    Parameters
    ----------
    call : callable
        Takes nothing.

    Returns
    -------
    result : object
        What the call returned.
    extra_bytes : int or None
        None where the kernel does not say (it is Linux that does).
    """
    if not CLEAR.exists():
        return call(), None
    try:
        _give_back_free_memory()
        CLEAR.write_text("5")  # resets the peak
        before = _bytes("VmRSS")
    except OSError:  # a container may forbid it
        return call(), None
    result = call()
    return result, max(0, _bytes("VmHWM") - before)


def untouched(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Make room for a result whose pages count when a call first writes them.

    Memory from NumPy may have been used before, and would not count.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not hasattr(mmap, "MAP_ANONYMOUS") or size == 0:
        return np.empty(shape, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)


def _bytes(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in {STATUS}")


def _give_back_free_memory() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc; others do not keep it
    if trim is not None:
        trim(0)
