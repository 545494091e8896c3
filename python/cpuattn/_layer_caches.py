"""The caches that an attention layer may be given, behind the methods of one."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._arrays import as_integers
from cpuattn.cache import KVCache
from cpuattn.paged import PagedKVCache

CACHES = (KVCache, PagedKVCache)


class ChosenSequences:
    """Sequences of a paged cache as the batch entries of a `KVCache`.

    Parameters
    ----------
    cache : PagedKVCache
    seq_ids : (B,) int
        The sequence of each entry.

    Raises
    ------
    TypeError, ValueError
        If ids are not integer or unknown.
    """

    def __init__(self, cache: PagedKVCache, seq_ids: ArrayLike) -> None:
        self._cache, self._seq_ids = cache, as_integers(seq_ids, "seq_ids")
        sequences = cache._chosen(self._seq_ids)  # noqa: SLF001 (this class stands in for the cache)
        self.batch = len(sequences)
        self.lengths = np.array([sequence.length for sequence in sequences], np.int64)
        self.keys, self.values = cache.keys, cache.values

    def append(self, key: ArrayLike, value: ArrayLike, *, lengths: ArrayLike | None = None) -> None:
        """Add tokens to the sequences, see `PagedKVCache.append`."""
        self._cache.append(self._seq_ids, key, value, lengths=lengths)

    def truncate(self, n: Sequence[int] | NDArray[np.int64]) -> None:
        """Keep the first n tokens of each sequence, see `PagedKVCache.truncate`."""
        for seq_id, length in zip(self._seq_ids.tolist(), n, strict=True):
            self._cache.truncate(seq_id, int(length))

    def attend(self, query: ArrayLike, **options: Any) -> NDArray[Any]:
        """Attend to the tokens of the sequences, see `PagedKVCache.attend`."""
        out: NDArray[Any] = self._cache.attend(query, self._seq_ids, **options)
        return out


LayerCache: TypeAlias = KVCache | ChosenSequences


def layer_cache(name: str, cache: object, seq_ids: ArrayLike | None) -> LayerCache:
    """Give what the layer reads and writes, or raise TypeError or ValueError."""
    if isinstance(cache, PagedKVCache):
        if seq_ids is None:
            raise ValueError(f"seq_ids is missing; {name} is a PagedKVCache, with many sequences")
        return ChosenSequences(cache, seq_ids)
    if not isinstance(cache, KVCache):
        raise TypeError(f"{name} must be a KVCache or a PagedKVCache, got {type(cache).__name__}")
    if seq_ids is not None:
        raise ValueError(f"seq_ids is for a PagedKVCache, but {name} is a KVCache")
    return cache


def check_cache(
    name: str, cache: LayerCache, dims: tuple[int, int, int], dtype: np.dtype[Any], batch: int
) -> None:
    """Raise TypeError or ValueError unless the cache is one of a layer and a batch like these.

    Parameters
    ----------
    name : str
        Of the argument that it was given as.
    cache : KVCache or ChosenSequences
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
    if cache.batch != batch:
        held = "entries" if isinstance(cache, KVCache) else "sequences"
        raise ValueError(f"{name} must hold {batch} {held} like x, got {cache.batch}")
