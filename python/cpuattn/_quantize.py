"""Elements as int8 with one float32 scale per row: what an int8 cache stores."""

from __future__ import annotations  # help() then shows ArrayLike, and not what it stands for

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cpuattn._arrays import as_array
from cpuattn._checks import check_axis
from cpuattn._dtypes import check_float, one_rounding, stored_dtype

_SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal
_LARGEST = np.finfo(np.float32).max


def quantize_int8(x: ArrayLike, *, axis: int = -1) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize symmetrically to int8, with one scale for each row along an axis.

    A row is what lies along `axis`; for keys and values (..., H, L, D) that is one token of one
    head::

        scale = max|x| / 127, rounded to float32
        q     = round(x / scale), to nearest, ties to even, limited to [-127, 127]

    Both quotients are computed in float32, or in float64 for a float64 array.

    Parameters
    ----------
    x : array
        float16, bfloat16, float32 or float64.
    axis : int, default -1
        Along which a row lies.

    Returns
    -------
    q : array of int8
        Of the shape of `x`.
    scale : array of float32
        Of the shape of `x` without `axis`.

    Raises
    ------
    TypeError
        If `x` is not a float array or `axis` not an integer.
    ValueError
        If `x` has no such axis.

    Notes
    -----
    q · scale is within scale / 2 of x, but for the rounding of the quotient, wherever scale is at
    least the smallest normal float32 (1.2e-38); below that the scale itself has few bits.
    A row whose scale is 0 in float32 (all zeros, or all below 9e-44) has q = 0.
    A row that holds a NaN or an infinity, or is too large for a float32 scale, has q = 0 and the
    scale NaN: all of it reads as NaN, so that a NaN that attention may see always shows.

    Examples
    --------
    >>> import numpy as np
    >>> from cpuattn import quantize_int8
    >>> quantize_int8(np.array([[127.0, -2.5, 0.5], [0.0, 0.0, 0.0]]))
    (array([[127,  -2,   0],
           [  0,   0,   0]], dtype=int8), array([1., 0.], dtype=float32))
    """
    array = as_array(x, "x")
    check_float("x", array)
    axis = check_axis("axis", axis, array.ndim)
    wide: NDArray[Any] = array.astype(
        np.float64 if array.dtype.type is np.float64 else np.float32, copy=False
    )
    largest = np.abs(wide).max(axis=axis, keepdims=True, initial=0)
    with np.errstate(over="ignore"):
        scale = (largest / wide.dtype.type(127)).astype(np.float32, copy=False)
    if ((scale >= _SMALLEST_NORMAL) & (scale <= _LARGEST)).all():
        quotient = wide / scale
    else:
        scale, quotient = _unusual(wide, scale)
    return np.rint(quotient).astype(np.int8), scale.squeeze(axis)


def dequantize_int8(
    q: ArrayLike, scale: ArrayLike, *, axis: int = -1, dtype: DTypeLike = "float32"
) -> NDArray[Any]:
    """Return q · scale, rounded once: what attention reads from an int8 cache.

    Parameters
    ----------
    q : array of int8
        As `quantize_int8` gives it.
    scale : array of float32
        Of the shape of `q` without `axis`.
    axis : int, default -1
        Along which the elements share a scale.
    dtype : {"float32", "float64", "float16", "bfloat16"}
        Of the result.

    Returns
    -------
    array
        Of the shape of `q`. NaN where the scale is NaN.

    Raises
    ------
    TypeError
        If a dtype is not one of these.
    ValueError
        If `q` has no such axis, or the shapes do not fit.
    ImportError
        If the dtype is bfloat16 and ml_dtypes is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from cpuattn import dequantize_int8
    >>> dequantize_int8(np.array([[127, -2]], "int8"), np.array([0.5], "float32"))
    array([[63.5, -1. ]], dtype=float32)
    """
    integers, scales = as_array(q, "q"), as_array(scale, "scale")
    wanted = stored_dtype("dtype", dtype, quantized=False)
    for name, array, kind in (("q", integers, np.int8), ("scale", scales, np.float32)):
        if array.dtype.type is not kind:
            raise TypeError(f"{name} must be {np.dtype(kind)}, got {array.dtype}")
    axis = check_axis("axis", axis, integers.ndim)
    if scales.shape != (shape := integers.shape[:axis] + integers.shape[axis + 1 :]):
        raise ValueError(
            f"scale must have shape {shape}, that of q without axis, got {scales.shape}"
        )
    # 7 bits times 24 are exact in float64; a float32 product is rounded once by itself.
    wide = np.float32 if wanted.type is np.float32 else np.float64
    product = integers.astype(wide) * np.expand_dims(scales.astype(wide), axis)
    result: NDArray[Any] = one_rounding(product, wanted).astype(wanted, copy=False)
    return result


def _unusual(x: NDArray[Any], scale: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return scales and quotients where some scale is zero, subnormal or not finite."""
    scale = np.where(np.isfinite(scale), scale, np.float32(np.nan))
    usable = scale > 0
    quotient = np.where(usable, x, 0) / np.where(usable, scale, np.float32(1))
    return scale, np.clip(quotient, -127, 127)
