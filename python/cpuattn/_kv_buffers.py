"""The memory of a KV cache: two buffers whose batch entries are filled from the left."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._arrays import as_array
from cpuattn._checks import check_shape

Span = tuple[int, int, int]  # batch entry, first token, end


class KVBuffers:
    """Keys (B, Hkv, capacity, D) and values (B, Hkv, capacity, Dv).

    Parameters
    ----------
    shape : tuple of int
        (B, Hkv, capacity, D).
    value_dim : int
        Dv.
    dtype : dtype
        Of both.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], value_dim: int, dtype: np.dtype[Any]
    ) -> None:
        self.keys: NDArray[Any] = np.empty(shape, dtype)
        self.values: NDArray[Any] = np.empty((*shape[:3], value_dim), dtype)

    @property
    def capacity(self) -> int:
        """Tokens that each entry has room for."""
        capacity: int = self.keys.shape[2]
        return capacity

    def check(self, key: ArrayLike, value: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return key and value as arrays; TypeError or ValueError if they do not fit in."""
        key_array, value_array = as_array(key, "key"), as_array(value, "value")
        for name, array in (("key", key_array), ("value", value_array)):
            if array.dtype.type is not self.keys.dtype.type:
                raise TypeError(f"{name} must be {self.keys.dtype}, got {array.dtype}")
        batch, heads, _, head_dim = self.keys.shape
        check_shape("key", key_array, (batch, heads, None, head_dim))
        check_shape("value", value_array, (batch, heads, key_array.shape[2], self.values.shape[3]))
        return key_array, value_array

    def write(
        self, key: NDArray[Any], value: NDArray[Any], starts: list[int], counts: list[int]
    ) -> None:
        """Copy the first counts[b] tokens of entry b to starts[b] and on, for every b."""
        for new, buffer in ((key, self.keys), (value, self.values)):
            if min(starts) == max(starts) and min(counts) == max(counts):
                buffer[:, :, starts[0] : starts[0] + counts[0]] = new[:, :, : counts[0]]
                continue
            for entry, (start, count) in enumerate(zip(starts, counts, strict=True)):
                buffer[entry, :, start : start + count] = new[entry, :, :count]

    def make_room(self, held: list[int], keep: list[int], counts: list[int]) -> None:
        """Keep the last keep[b] of the held[b] tokens of entry b, with room for counts[b] more."""
        # Room for the kept tokens once more: they are copied again only when as many were added.
        needed = max(keep) + max(k + count for k, count in zip(keep, counts, strict=True))
        spans = [(entry, n - k, n) for entry, (n, k) in enumerate(zip(held, keep, strict=True))]
        if needed > self.capacity:
            self.replace(spans, needed)
        else:
            _copy(self.keys, self.keys, spans)
            _copy(self.values, self.values, spans)

    def replace(self, spans: list[Span], capacity: int) -> None:
        """Take new buffers, in which entry i begins with the i-th span."""
        keys, values = (
            np.empty((len(spans), old.shape[1], capacity, old.shape[3]), old.dtype)
            for old in (self.keys, self.values)
        )
        _copy(self.keys, keys, spans)
        _copy(self.values, values, spans)
        self.keys, self.values = keys, values


def _copy(old: NDArray[Any], new: NDArray[Any], spans: list[Span]) -> None:
    for entry, (source, start, end) in enumerate(spans):
        new[entry, :, : end - start] = old[source, :, start:end]
