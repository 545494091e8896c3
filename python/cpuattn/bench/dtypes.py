"""The dtypes of the cases: 16 bits and int8 beside what NumPy has."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Find a dtype by its name; bfloat16 comes from ml_dtypes."""
    kind: Any = importlib.import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name
    found: np.dtype[Any] = np.dtype(kind)
    return found


def multiplied(name: str, isa: str) -> str:
    """Name the dtype that an instruction set multiplies where the numbers are of another one."""
    if name == "bfloat16" and isa == "avx512_bf16":
        return name
    return "float64" if name == "float64" else "float32"


def quantise(array: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a key or value to int8 with one scale for each token and head.

    Parameters
    ----------
    array : array, shape (..., Hkv, Lk, D)
        No row may be all zeros.

    Returns
    -------
    integers : array, shape (..., Hkv, Lk, D)
        From -127 to 127.
    scales : array, shape (..., Hkv, Lk)
        What they are multiples of.
    """
    largest = np.maximum(array.max(axis=-1), -array.min(axis=-1))
    scales = (largest / 127).astype(np.float32)
    return np.rint(array / scales[..., None]).astype(np.int8), scales


def dequantise(integers: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the numbers that integers with scales stand for."""
    return integers * scales[..., None]
