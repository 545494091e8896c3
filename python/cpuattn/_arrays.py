"""Conversions that the core asks for when an argument is not a plain array that it can read."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpuattn import _core


def as_array(obj: object, name: str) -> NDArray[Any]:
    """View anything that holds an array in CPU memory as a NumPy array, without copying."""
    if type(obj) is np.ndarray:  # first: the checks of all the rest cost more than a token
        return obj
    if isinstance(obj, np.ma.MaskedArray):
        msg = f"{name} is a masked array, whose mask would be ignored; pass an array and mask="
        raise TypeError(msg)
    if isinstance(obj, np.ndarray):
        return np.asarray(obj)
    try:
        if hasattr(obj, "__dlpack__"):
            return np.from_dlpack(obj)
        if hasattr(obj, "__array__"):
            return np.asarray(obj)
    except (BufferError, RuntimeError) as error:
        msg = f"{name} is of type {type(obj).__name__} and gives no CPU array: {error}"
        raise TypeError(msg) from error
    msg = (
        f"{name} is of type {type(obj).__name__}; it must be an array "
        "(NumPy, or an object with __array__ or __dlpack__ in CPU memory)"
    )
    raise TypeError(msg)


def as_native(array: NDArray[Any], _name: str) -> NDArray[Any]:
    """Copy an array that is byte-swapped or not aligned into one that is neither."""
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Make an array that starts at a cache line, as NumPy's do not: vectors lie in one line each.

    Decoding float32 from memory with one query row is faster by an eighth for it.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.int8)
    start = -_core.address(memory) % 64  # NumPy's own ways to tell end the process without memory
    return memory[start : start + size].view(dtype).reshape(shape)


def as_integers(obj: object, name: str) -> NDArray[np.int64]:
    """Convert integers of any kind, a list of them, or a single one to int64."""
    array = np.asarray(obj)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        msg = f"{name} has dtype {array.dtype}; it must be integers"
        raise TypeError(msg)
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        msg = f"{name} contains {array.max()}; it must fit into int64"
        raise ValueError(msg)
    return _aligned(array, np.int64)


def _as_floats(obj: object, name: str, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    array = np.asarray(obj)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        msg = f"{name} has dtype {array.dtype}; it must be real numbers"
        raise TypeError(msg)
    return _aligned(array, dtype)


def _aligned(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    return np.require(array, dtype=dtype, requirements=["ALIGNED"])


def as_float32(obj: object, name: str) -> NDArray[np.float32]:
    """Convert per-head numbers, one for each query head, to float32."""
    return _as_floats(obj, name, np.float32)


def as_float64(obj: object, name: str) -> NDArray[np.float64]:
    """Convert per-head numbers, one for each query head, to float64."""
    return _as_floats(obj, name, np.float64)


def shares_memory(out: NDArray[Any], array: NDArray[Any]) -> bool:
    """Tell whether two arrays share elements; where that is too hard to decide, they do."""
    max_work: Any = 100_000  # NumPy's stubs know only two of the numbers that it takes
    try:
        return np.shares_memory(out, array, max_work=max_work)
    except np.exceptions.TooHardError:
        return True
