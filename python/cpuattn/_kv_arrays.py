"""Arrays of keys and values in any dtype that a cache stores: batch entries, or pages."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn import _core
from cpuattn._arrays import as_array, empty_aligned
from cpuattn._cache_dtypes import check_float
from cpuattn._checks import check_shape

# Entry and row to begin at; entry, first row and end of what goes there.
Move = tuple[int, int, int, int, int]


class KVArrays:
    """Keys (N, Hkv, rows, D) and values (N, Hkv, rows, Dv), N batch entries or pages.

    int8 has float32 scales beside each, (N, Hkv, rows): a number is int8 * scale.

    Parameters
    ----------
    shape : tuple of int
        (N, Hkv, rows, D).
    value_dim : int
        Dv.
    dtype : dtype
        Of both.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], value_dim: int, dtype: np.dtype[Any]
    ) -> None:
        self.keys = empty_aligned(shape, dtype)
        self.values = empty_aligned((*shape[:3], value_dim), dtype)
        self.key_scales: NDArray[np.float32] | None = None
        self.value_scales: NDArray[np.float32] | None = None
        # What a token consists of.
        self.every: tuple[NDArray[Any], ...] = (self.keys, self.values)
        if dtype.type is np.int8:
            self.key_scales = np.empty(shape[:3], np.float32)
            self.value_scales = np.empty(shape[:3], np.float32)
            self.every += (self.key_scales, self.value_scales)
        self.dtype = dtype
        self._heads_and_dims = shape[1], shape[3], value_dim

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, scales included."""
        return sum(array.nbytes for array in self.every)

    def like(self, count: int, rows: int) -> "KVArrays":
        """Make new arrays for so many entries of so many rows each."""
        heads, head_dim, value_dim = self._heads_and_dims
        return KVArrays((count, heads, rows, head_dim), value_dim, self.dtype)

    def check(
        self, key: ArrayLike, value: ArrayLike, batch: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the tokens of `batch` entries as arrays; TypeError or ValueError if unfit."""
        key, value = as_array(key, "key"), as_array(value, "value")
        check_float("key", key)
        check_float("value", value)
        heads, head_dim, value_dim = self._heads_and_dims
        shape = key.shape
        # Compared here, because the function that can say what is wrong costs more than a copy.
        if len(shape) != 4 or shape != (batch, heads, shape[2], head_dim):
            check_shape("key", key, (batch, heads, None, head_dim))
        if value.shape != (batch, heads, shape[2], value_dim):
            check_shape("value", value, (batch, heads, shape[2], value_dim))
        return key, value

    def write(self, key: NDArray[Any], value: NDArray[Any], moves: list[Move]) -> None:
        """Write tokens that `check` returned, rounded or quantised; they may lie in these arrays.

        Raises FloatingPointError, once all are written, if a number overflows and np.errstate
        has it so.
        """
        _core.store_tokens(key, value, self.every, moves)

    def apart(self, array: NDArray[Any]) -> NDArray[Any]:
        """Give a copy if the array may lie in these ones, of which rows are about to move."""
        inside = any(np.may_share_memory(array, own) for own in self.every)
        return array.copy() if inside else array

    def scales(self, rows: slice = slice(None)) -> dict[str, NDArray[np.float32]]:
        """Give the options of `attention` that tell how to read these rows."""
        if self.key_scales is None or self.value_scales is None:
            return {}
        return {
            "key_scale": self.key_scales[:, :, rows],
            "value_scale": self.value_scales[:, :, rows],
        }
