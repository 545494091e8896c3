"""Arrays of keys and values in any dtype that a cache stores: batch entries, or pages."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._arrays import as_array, empty_aligned
from cpuattn._checks import check_shape
from cpuattn._dtypes import check_float

# Entry and row to begin at; entry, first row and end of what goes there.
Move = tuple[int, int, int, int, int]


class KVArrays:
    """Keys (N, Hkv, rows, D) and values (N, Hkv, rows, Dv), N batch entries or pages.

    int8 has float32 scales beside each, (N, Hkv, rows): an element is int8 * scale.

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
        every = [empty_aligned(shape, dtype), empty_aligned((*shape[:3], value_dim), dtype)]
        if dtype.type is np.int8:
            every += [np.empty(shape[:3], np.float32), np.empty(shape[:3], np.float32)]
        self._hold(every)

    def _hold(self, every: Iterable[NDArray[Any]]) -> None:
        # What a token consists of.
        self.every: tuple[NDArray[Any], ...] = tuple(every)
        self.keys, self.values = self.every[:2]
        self.key_scales: NDArray[np.float32] | None = None
        self.value_scales: NDArray[np.float32] | None = None
        if len(self.every) > 2:
            self.key_scales, self.value_scales = self.every[2:]
        self.dtype = self.keys.dtype
        self.capacity: int = self.keys.shape[2]  # rows of an entry
        heads, head_dim = self.keys.shape[1::2]
        self._heads_and_dims = heads, head_dim, self.values.shape[3]

    def __getstate__(self) -> tuple[NDArray[Any], ...]:
        return self.every

    def __setstate__(self, every: tuple[NDArray[Any], ...]) -> None:
        # joblib makes memory maps of large arrays, which are of a subclass.
        self._hold(np.asarray(array) for array in every)

    @property
    def writeable(self) -> bool:
        """Whether tokens may be written; joblib hands out arrays that are not."""
        return all(array.flags.writeable for array in self.every)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, scales included."""
        return sum(array.nbytes for array in self.every)

    def moved(self, moves: list[Move], count: int, rows: int) -> "KVArrays":
        """Copy rows into new arrays of this many entries and rows."""
        heads, head_dim, value_dim = self._heads_and_dims
        new = KVArrays((count, heads, rows, head_dim), value_dim, self.dtype)
        for target, source in zip(new.every, self.every, strict=True):
            for entry, row, origin, start, end in moves:
                target[entry, :, row : row + end - start] = source[origin, :, start:end]
        return new

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

    def scales(self, rows: slice = slice(None)) -> dict[str, NDArray[np.float32]]:
        """Give the options of `attention` that tell how to read these rows."""
        if self.key_scales is None or self.value_scales is None:
            return {}
        return {
            "key_scale": self.key_scales[:, :, rows],
            "value_scale": self.value_scales[:, :, rows],
        }
