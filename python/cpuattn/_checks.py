"""Checks of arguments that the Python classes share; each error names the argument."""

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cpuattn._arrays import as_integers, check_scalar


def check_size(name: str, size: int, at_least: int) -> int:
    """Return size as an int, or raise TypeError or ValueError."""
    check_scalar(size, name)
    try:
        size = operator.index(size)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {size!r}") from None
    if size < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {size}")
    return size


def check_float_dtype(name: str, dtype: DTypeLike | None) -> np.dtype[Any]:
    """Return dtype as float32 or float64 in native byte order, or raise TypeError."""
    try:
        # np.dtype(None) is float64, which nobody wanted who wrote None for a default.
        checked = None if dtype is None else np.dtype(dtype).newbyteorder("=")
    except TypeError:
        checked = None
    if checked not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, got {dtype!r}")
    return checked


def check_number(name: str, number: float) -> float:
    """Return a finite number that is not negative as a float, or raise TypeError or ValueError."""
    check_scalar(number, name)
    try:
        number = float(number)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {number!r}") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {number}")
    return number


def per_entry(name: str, numbers: ArrayLike, batch: int) -> list[int]:
    """Return one int per batch entry from an int or (B,) ints, or raise TypeError or ValueError."""
    array = as_integers(numbers, name)
    if array.shape not in ((), (batch,)):
        raise ValueError(f"{name} must be an int or have shape ({batch},), got {array.shape}")
    if array.ndim == 0:
        return [int(array)] * batch
    result: list[int] = array.tolist()
    return result


def indices(name: str, numbers: ArrayLike, count: int) -> list[int]:
    """Return (n,) ints, n > 0, in [0, count), or raise TypeError or ValueError."""
    array = as_integers(numbers, name)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must have shape (n,) with n > 0, got {array.shape}")
    result: list[int] = array.tolist()
    if not 0 <= min(result) <= max(result) < count:
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {array}")
    return result


def check_axis(name: str, axis: int, ndim: int) -> int:
    """Return axis from 0 to ndim - 1, or raise TypeError or ValueError."""
    axis = check_size(name, axis, at_least=-ndim)
    if axis >= ndim:
        raise ValueError(f"{name} must be from {-ndim} to {ndim - 1}, got {axis}")
    return axis % ndim


def check_shape(name: str, array: NDArray[Any], shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless the array has this shape; None stands for any size."""
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape ({wanted}), got {array.shape}")
