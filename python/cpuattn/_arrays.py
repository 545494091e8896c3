"""Conversions that the core calls when an argument is not a plain array that it can read."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpuattn import _core
from cpuattn._tensors import is_tensor, tensor_array, tensor_values

# DLPack's types of device whose memory the CPU reads: CPU, CUDA host, ROCm host, CUDA managed.
_CPU_DEVICES = (1, 3, 11, 13)

# What exporters raise for a dtype, a device or a tracer that they cannot give.
_REFUSALS = (BufferError, RuntimeError, TypeError, ValueError, AttributeError)


def as_array(obj: object, name: str) -> NDArray[Any]:
    """View anything that holds an array in CPU memory as a NumPy array, without copying."""
    if type(obj) is np.ndarray:  # first: the checks of all the rest cost more than a token
        return obj
    if isinstance(obj, np.ndarray):
        return _unmasked(obj, name)
    if is_tensor(obj):
        return tensor_array(obj, name)
    return _exported(obj, name)


def as_values(obj: object, name: str) -> NDArray[Any]:
    """View an array of which a copy in a wide dtype is made: no package is needed for bfloat16."""
    return tensor_values(obj, name) if is_tensor(obj) else as_array(obj, name)


def as_weights(obj: Any, name: str) -> NDArray[Any]:
    """View the values of a weight that is to be loaded: torch's gradients end there by intent."""
    return as_values(obj.detach() if is_tensor(obj) else obj, name)


def as_output(obj: object, name: str) -> NDArray[Any]:
    """View an array, or a tensor in CPU memory, that is to be written in place."""
    if isinstance(obj, np.ndarray):
        return _unmasked(obj, name)
    if is_tensor(obj):
        return tensor_array(obj, name)
    if hasattr(obj, "__dlpack__"):
        _check_device(obj, name)
        try:
            return np.from_dlpack(obj)
        except _REFUSALS as error:
            raise _no_array(obj, name, error) from error
    raise TypeError(
        f"{name} is of type {type(obj).__name__}; it must be an array that can be written in place "
        "(NumPy, torch on the CPU, or an object with __dlpack__ in CPU memory)"
    )


def _exported(obj: Any, name: str) -> NDArray[Any]:
    """Take the array of an object of another library, whose memory is shared if it allows it."""
    refusal: Exception | None = None
    if hasattr(obj, "__dlpack__"):
        _check_device(obj, name)
        try:
            return np.from_dlpack(obj)
        except _REFUSALS as error:  # bfloat16, which JAX's __array__ can give
            refusal = error
    if hasattr(obj, "__array__"):
        try:
            array: NDArray[Any] = np.asanyarray(obj)
        except _REFUSALS as error:
            refusal = error
        else:
            return _unmasked(array, name)
    if refusal is not None:
        raise _no_array(obj, name, refusal) from refusal
    raise TypeError(
        f"{name} is of type {type(obj).__name__}; it must be an array "
        "(NumPy, or an object with __array__ or __dlpack__ in CPU memory)"
    )


def _unmasked(array: NDArray[Any], name: str) -> NDArray[Any]:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be ignored; "
            "it must be a plain array (to hide keys, use the argument mask)"
        )
    return np.asarray(array)


def check_scalar(obj: object, name: str) -> None:
    """Raise TypeError if an array that stands for a single value is a masked one."""
    if isinstance(obj, np.ndarray):
        _unmasked(obj, name)


def _check_device(obj: Any, name: str) -> None:
    try:
        device = int(obj.__dlpack_device__()[0])
    except _REFUSALS:  # arrays that lie on several devices do not say
        return
    if device not in _CPU_DEVICES:
        raise TypeError(
            f"{name} is of type {type(obj).__name__} on a device of DLPack's type {device}; "
            "it must be in CPU memory (type 1)"
        )


def _no_array(obj: object, name: str, error: Exception) -> TypeError:
    return TypeError(f"{name} is of type {type(obj).__name__} and gives no CPU array: {error}")


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
    array = _as_numbers(obj, name)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        msg = f"{name} has dtype {array.dtype}; it must be integers"
        raise TypeError(msg)
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        msg = f"{name} contains {array.max()}; it must fit into int64"
        raise ValueError(msg)
    return _aligned(array, np.int64)


def _as_numbers(obj: object, name: str) -> NDArray[Any]:
    """Convert an array, or a nested list that may hold arrays, whatever its dtype."""
    plain = _plain(obj, name)
    try:
        return np.asarray(plain)
    except (TypeError, ValueError, OverflowError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name} cannot be converted to an array: {error}") from error


def _plain(obj: Any, name: str) -> Any:
    if type(obj) is int or type(obj) is float:
        return obj
    if isinstance(obj, (list, tuple)):
        return [_plain(element, name) for element in obj]
    if hasattr(obj, "__dlpack__") or hasattr(obj, "__array__"):
        return as_values(obj, name)
    return obj


def _as_floats(obj: object, name: str, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    array = _as_numbers(obj, name)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        msg = f"{name} has dtype {array.dtype}; it must be real numbers"
        raise TypeError(msg)
    return _aligned(array, dtype)


def _aligned(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    return np.require(array, dtype=dtype, requirements=["ALIGNED"])


def as_float32(obj: object, name: str) -> NDArray[np.float32]:
    """Convert per-head values, one for each query head, to float32."""
    return _as_floats(obj, name, np.float32)


def as_float64(obj: object, name: str) -> NDArray[np.float64]:
    """Convert per-head values, one for each query head, to float64."""
    return _as_floats(obj, name, np.float64)


def shares_memory(out: NDArray[Any], array: NDArray[Any]) -> bool:
    """Tell whether two arrays share elements; where that is too hard to decide, they do."""
    max_work: Any = 100_000  # NumPy's stubs know only two of the values that it takes
    try:
        return np.shares_memory(out, array, max_work=max_work)
    except np.exceptions.TooHardError:
        return True
