"""What a cache stores, and how elements that are appended to it are rounded."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# By name, because bfloat16 is a type of the optional package ml_dtypes.
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})

_LARGEST = np.array(np.finfo(np.float32).max)


def bfloat16() -> np.dtype[Any]:
    """Return the dtype bfloat16, or raise ImportError."""
    try:
        import ml_dtypes  # noqa: PLC0415 (optional)
    except ImportError:
        raise ImportError('dtype="bfloat16" needs the package ml_dtypes') from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def stored_dtype(name: str, dtype: DTypeLike | None, *, quantized: bool = True) -> np.dtype[Any]:
    """Return a float dtype or int8 in native byte order, or raise TypeError or ImportError."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        return bfloat16()
    try:
        checked = None if dtype is None else np.dtype(dtype)  # np.dtype(None) is float64
    except TypeError:
        checked = None
    allowed = {*FLOATS, "int8"} if quantized else FLOATS
    if checked is None or checked.name not in allowed:
        choice = "float32, float64, float16, bfloat16" + (" or int8" if quantized else "")
        raise TypeError(f"{name} must be {choice}, got {dtype!r}")
    return checked if checked.isnative else checked.newbyteorder("=")


def check_float(name: str, array: NDArray[Any]) -> None:
    """Raise TypeError unless the array is of a dtype that a cache takes."""
    if array.dtype.type.__name__ not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {array.dtype}")


def report_overflow() -> None:
    """Warn, raise or do nothing, as np.errstate has it, where a cast by the core overflowed."""
    _LARGEST.astype(np.float16)


def one_rounding(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Prepare an array so that assigning it to one of `dtype` rounds to nearest even once.

    NumPy rounds its own types directly. float64 becomes bfloat16 by way of float32, where a
    element just beside a tie may become the tie; the odd neighbor on its side never is one.
    """
    if array.dtype.type is not np.float64 or dtype.type.__name__ != "bfloat16":
        return array
    single = array.astype(np.float32)
    even = single.view(np.uint32) & 1 == 0
    beyond = np.where(array > single, np.float32(np.inf), np.float32(-np.inf))
    return np.where(even & (single != array), np.nextafter(single, beyond), single)
