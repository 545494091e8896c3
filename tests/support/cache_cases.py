"""What the tests of caches share: tokens, poisoned memory, and rounding by search."""

import pickle
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from cpuattn.cache.kv_arrays import KVArrays

Array = NDArray[Any]
B, HQ, HKV, D, DV = 2, 6, 2, 8, 5
BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
FLOATS = ("float32", "float64", "float16", "bfloat16")
DTYPES = (*FLOATS, "int8")


def dtype_of(name: str) -> np.dtype[Any]:
    """Give the dtype of this name; NumPy alone does not know bfloat16."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def poison_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever reads a token that was never appended show it, by a NaN."""
    make = KVArrays.__init__

    def poisoned(self: KVArrays, *arguments: Any) -> None:
        make(self, *arguments)
        for array in self.every:
            array[...] = 77 if array.dtype == np.int8 else np.nan

    monkeypatch.setattr(KVArrays, "__init__", poisoned)


def made_read_only(cache: Any) -> Any:
    """Give a copy whose memory may not be written, as joblib hands caches to its workers."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(cache, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(x) for x in buffers])  # noqa: S301 (just pickled)


def tokens(
    length: int, dtype: Any = np.float32, batch: int = B, seed: int | None = None
) -> tuple[Array, Array, Array]:
    """Random query, key and value of so many tokens."""
    rng = np.random.default_rng(length if seed is None else seed)
    shapes = ((HQ, D), (HKV, D), (HKV, DV))
    q, k, v = (rng.standard_normal((batch, h, length, d)).astype(dtype) for h, d in shapes)
    return q, k, v


def chunks(sizes: list[int]) -> Iterator[slice]:
    """Consecutive slices of the token axis of these sizes."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


def rounded(x: Array, name: str) -> Array:
    """Round float64 numbers to the nearest of a 16-bit or 32-bit dtype, ties to even, by search.

    It shares nothing with the library or with NumPy's conversions; float32 has too many numbers
    to search among.
    """
    dtype = dtype_of(name)
    if name in ("float64", "float32"):
        return x.astype(dtype)
    infinity = np.array(np.inf, dtype).view(np.uint16)
    patterns = np.arange(int(infinity), dtype=np.uint16)  # finite and not negative, in order
    finite = patterns.view(dtype).astype(np.float64)
    above = np.searchsorted(finite, abs(x)).clip(1, len(finite) - 1)
    below = above - 1
    up, down = finite[above] - abs(x), abs(x) - finite[below]
    nearest = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    magnitude = patterns[nearest].view(dtype).astype(np.float64)
    result: Array = np.copysign(magnitude, x).astype(dtype)
    return result
