"""The caches that an attention layer may be given, behind the methods of one."""
# ruff: noqa: SLF001 (what a layer does with a cache needs its states)

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn.cache.appended import Appended
from cpuattn.cache.kv_cache import KVCache
from cpuattn.cache.page_state import known_ids
from cpuattn.cache.paged import PagedKVCache

CACHES = (KVCache, PagedKVCache)


class LayerCache:
    """A `KVCache`, or sequences of a paged one as the batch entries of one.

    Parameters
    ----------
    cache : KVCache or PagedKVCache
    seq_ids : (B,) int, optional
        With a PagedKVCache: the sequence of each entry.

    Raises
    ------
    TypeError, ValueError
        If ids are not integer or unknown.
    """

    def __init__(self, cache: KVCache | PagedKVCache, seq_ids: ArrayLike | None) -> None:
        self._cache: Any = cache
        self._ids: tuple[list[int], ...] = ()  # what methods of a paged cache take besides
        self.entries = "entries"
        if isinstance(cache, PagedKVCache) and seq_ids is not None:
            self._ids, self.entries = (known_ids(cache._state, seq_ids),), "sequences"
            lengths = cache.lengths
            self.lengths = np.array([lengths[i] for i in self._ids[0]], np.int64)
        elif isinstance(cache, KVCache):
            self.lengths = cache.lengths
        self.keys, self.values = cache.keys, cache.values

    def attend(self, query: NDArray[Any], **options: Any) -> None:
        """Attend to all tokens held."""
        self._cache.attend(query, *self._ids, **options)

    def append(self, key: ArrayLike, value: ArrayLike, lengths: ArrayLike | None) -> Appended:
        """Add tokens, and give what they are attended to and taken back by."""
        appended = Appended(self._cache, self._ids)
        self._cache._append(*self._ids, key, value, lengths, appended)
        return appended


def layer_cache(name: str, cache: object, seq_ids: ArrayLike | None) -> LayerCache:
    """Give what the layer reads and writes, or raise TypeError or ValueError."""
    if isinstance(cache, PagedKVCache):
        if seq_ids is None:
            raise ValueError(f"seq_ids is missing; {name} is a PagedKVCache, with many sequences")
    elif not isinstance(cache, KVCache):
        raise TypeError(f"{name} must be a KVCache or a PagedKVCache, got {type(cache).__name__}")
    elif seq_ids is not None:
        raise ValueError(f"seq_ids is for a PagedKVCache, but {name} is a KVCache")
    return LayerCache(cache, seq_ids)


def check_cache(
    name: str, cache: LayerCache, dims: tuple[int, int, int], dtype: np.dtype[Any], batch: int
) -> None:
    """Raise TypeError or ValueError unless the cache is one of a layer and a batch like these.

    Parameters
    ----------
    name : str
        Of the argument that it was given as.
    cache : LayerCache
    dims : (int, int, int)
        Key/value heads of the layer, and features of a key and of a value of each.
    dtype : dtype
        Of the layer.
    batch : int
        Entries of x.
    """
    wide = np.dtype(np.float64)
    if (cache.keys.dtype == wide) != (dtype == wide):
        allowed = "float64" if dtype == wide else "float32, float16, bfloat16 or int8"
        got = cache.keys.dtype
        raise TypeError(f"{name} must hold {allowed} with a layer of {dtype}, got {got}")
    kv_heads, head_dim, value_dim = cache.keys.shape[1], cache.keys.shape[3], cache.values.shape[3]
    if (kv_heads, head_dim, value_dim) != dims:
        values = "" if dims[1] == dims[2] else f" for keys and {dims[2]} for values"
        raise ValueError(
            f"{name} must hold {dims[0]} heads of {dims[1]} features{values} like the layer, "
            f"got {kv_heads} of {head_dim} for keys and {value_dim} for values"
        )
    held = len(cache.lengths)
    if held != batch:
        raise ValueError(f"{name} must hold {batch} {cache.entries} like x, got {held}")
