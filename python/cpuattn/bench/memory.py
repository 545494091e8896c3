"""How much memory a call adds at its peak, as the kernel counts it."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


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


def _bytes(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in {STATUS}")


def _give_back_free_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc; others do not keep it
    if trim is not None:
        trim(0)
