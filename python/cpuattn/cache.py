"""Keys and values of past tokens, kept so that generation computes each of them once."""

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cpuattn._arrays import as_array
from cpuattn._attention import attention
from cpuattn._checks import check_float_dtype, check_size, indices, per_entry
from cpuattn._kv_buffers import KVBuffers

__all__ = ["KVCache"]


class KVCache:
    """Key/value cache of one attention layer, appended in place and growing as needed.

    Keys lie in one (B, Hkv, capacity, D) buffer and values in another, and `attend` reads them
    there: the copy that `append` makes is the only one. Batch entries may differ in length.

    Parameters
    ----------
    batch : int
        B, number of batch entries.
    kv_heads : int
        Hkv, number of key/value heads.
    head_dim : int
        D, features of a key.
    value_dim : int, optional
        Dv, features of a value; D by default.
    capacity : int, default 0
        Tokens to reserve room for. Full buffers are replaced by ones about twice as large, so that
        a token costs O(1) on average.
    dtype : {"float32", "float64"}
        Of keys and values.
    window : int, optional
        Sliding window: a query sees at most `window` keys, its own included, as `sliding_window`
        in model configurations says it (`attention` calls it ``window=(window - 1, None)``).
        Older keys are dropped when the buffers are full. With appends of L tokens these never
        outgrow the larger of `capacity` and 2 * (window - 1) + L tokens.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer or too small, or the dtype is not allowed.

    Notes
    -----
    The position of a token is the number of tokens that its entry held before it; it stays the
    same when older keys are dropped. `lengths` and `query_offset` count positions.

    Examples
    --------
    >>> import numpy as np
    >>> from cpuattn import KVCache
    >>> cache = KVCache(batch=1, kv_heads=1, head_dim=2)
    >>> for token in range(3):
    ...     cache.append(np.zeros((1, 1, 1, 2), "float32"), np.full((1, 1, 1, 2), token, "float32"))
    >>> cache.attend(np.ones((1, 1, 1, 2), "float32"))  # the average of the values 0, 1 and 2
    array([[[[1., 1.]]]], dtype=float32)
    >>> cache.lengths
    array([3])
    """

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        head_dim: int,
        *,
        value_dim: int | None = None,
        capacity: int = 0,
        dtype: DTypeLike = "float32",
        window: int | None = None,
    ) -> None:
        batch = check_size("batch", batch, at_least=1)
        kv_heads = check_size("kv_heads", kv_heads, at_least=1)
        head_dim = check_size("head_dim", head_dim, at_least=1)
        value_dim = (
            head_dim if value_dim is None else check_size("value_dim", value_dim, at_least=1)
        )
        capacity = check_size("capacity", capacity, at_least=0)
        self.window = None if window is None else check_size("window", window, at_least=1)
        shape = (batch, kv_heads, capacity, head_dim)
        self._buffers = KVBuffers(shape, value_dim, check_float_dtype("dtype", dtype))
        # Lists, because batches are small and a NumPy call costs more than a few integers.
        self._lengths = [0] * batch
        self._dropped = [0] * batch
        self._last_rows = -1
        self._last_starts = self._lengths

    @property
    def batch(self) -> int:
        """Number of batch entries."""
        return len(self._lengths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each entry, (B,): the position of its next token; dropped ones count."""
        return np.array(self._lengths, np.int64)

    @property
    def dropped(self) -> NDArray[np.int64]:
        """Tokens of each entry that left the window, (B,): the position of its first key held."""
        return np.array(self._dropped, np.int64)

    @property
    def keys(self) -> NDArray[Any]:
        """View of the keys held, (B, Hkv, Lk, D), Lk being the most that an entry holds.

        What lies beyond ``lengths - dropped`` in another entry is undefined.
        """
        return self._buffers.keys[:, :, : max(self._held())]

    @property
    def values(self) -> NDArray[Any]:
        """View of the values held, (B, Hkv, Lk, Dv), like `keys`."""
        return self._buffers.values[:, :, : max(self._held())]

    @property
    def capacity(self) -> int:
        """Tokens that each entry has room for."""
        return self._buffers.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers, room for further tokens included."""
        return self._buffers.keys.nbytes + self._buffers.values.nbytes

    def append(self, key: ArrayLike, value: ArrayLike, *, lengths: ArrayLike | None = None) -> None:
        """Add the keys and values of the next L tokens to every entry, each at its own end.

        Parameters
        ----------
        key : (B, Hkv, L, D) array
        value : (B, Hkv, L, Dv) array
            Both in the dtype of the cache, with any strides.
        lengths : int or (B,) int, optional
            Tokens of each entry that count, from 0 to L; the rest is padding on the right, which
            is not stored. All L by default.

        Raises
        ------
        TypeError
            If a dtype differs from that of the cache, or `lengths` is not integer.
        ValueError
            If a shape does not fit or a length is outside 0 to L. The cache is then unchanged.
        """
        key, value = self._buffers.check(key, value)
        rows = key.shape[2]
        counts = [rows] * self.batch
        if lengths is not None:
            counts = per_entry("lengths", lengths, self.batch)
        if not 0 <= min(counts) <= max(counts) <= rows:
            raise ValueError(f"lengths must be from 0 to {rows}, got {counts}")
        self._make_room(counts)
        self._buffers.write(key, value, self._held(), counts)
        self._last_rows, self._last_starts = rows, self._lengths
        self._lengths = [n + count for n, count in zip(self._lengths, counts, strict=True)]

    @overload
    def attend(
        self,
        query: ArrayLike,
        *,
        query_offset: ArrayLike | None = ...,
        return_lse: Literal[False] = ...,
        **options: Any,
    ) -> NDArray[Any]: ...
    @overload
    def attend(
        self,
        query: ArrayLike,
        *,
        query_offset: ArrayLike | None = ...,
        return_lse: Literal[True],
        **options: Any,
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...
    def attend(
        self,
        query: ArrayLike,
        *,
        query_offset: ArrayLike | None = None,
        **options: Any,
    ) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
        """Attention of the queries over all tokens held.

        Parameters
        ----------
        query : (B, Hq, Lq, D) array
            In the dtype of the cache.
        query_offset : int or (B,) int, optional
            Position of query 0. By default as many queries as the last append had tokens are the
            queries of these tokens, padding included; otherwise the last query of an entry stands
            at its last key (bottom-right).
        **options
            Of `attention`, such as ``causal=True``; masks and biases have the key axis of `keys`.
            The cache passes `key_lengths` itself, and `window` if it has one.

        Returns
        -------
        out : ndarray
            (B, Hq, Lq, Dv), as `attention` returns it.
        lse : ndarray
            (B, Hq, Lq), only with ``return_lse=True``.

        Raises
        ------
        TypeError
            If an option is given that the cache passes itself.
        ValueError
            If a query would see keys that were dropped.
        """
        own = {"key_lengths"} if self.window is None else {"key_lengths", "window"}
        if given := own & options.keys():
            raise TypeError(f"{', '.join(sorted(given))}: the cache passes its own")
        query = as_array(query, "query")
        rows = query.shape[-2] if query.ndim > 1 else 1
        if query_offset is not None:
            starts = per_entry("query_offset", query_offset, self.batch)
        elif rows == self._last_rows:
            starts = self._last_starts
        else:
            starts = [n - rows for n in self._lengths]
        if self.window is not None:
            for entry, start in enumerate(starts):
                self._check_window("query", entry, start)
            options["window"] = (self.window - 1, None)
        held = self._held()
        offsets = [start - n for start, n in zip(starts, self._dropped, strict=True)]
        if min(held) == max(held) and min(offsets) == max(offsets):
            options["query_offset"] = offsets[0]
        else:
            options["query_offset"], options["key_lengths"] = offsets, held
        result: NDArray[Any] | tuple[NDArray[Any], NDArray[Any]] = attention(
            query, self.keys, self.values, **options
        )
        return result

    def truncate(self, n: ArrayLike) -> None:
        """Keep the first n tokens of each entry, taking back drafts that were not accepted.

        Parameters
        ----------
        n : int or (B,) int
            From 0 to the present length of the entry.

        Raises
        ------
        TypeError
            If `n` is not integer.
        ValueError
            If it is negative or larger than a length, or if the next token would see keys that
            were dropped. The last append can always be taken back, and so can all tokens.
        """
        lengths = per_entry("n", n, self.batch)
        for entry, (new, old) in enumerate(zip(lengths, self._lengths, strict=True)):
            if not 0 <= new <= old:
                raise ValueError(f"n must be from 0 to the length of the entry, {old}, got {new}")
            if 0 < new < old:
                self._check_window("n", entry, new)
        self._dropped = [d if new else 0 for d, new in zip(self._dropped, lengths, strict=True)]
        self._lengths = lengths
        self._last_rows = -1

    def reorder(self, batch_indices: ArrayLike) -> None:
        """Make entry i a copy of the present entry batch_indices[i], as beam search does.

        Parameters
        ----------
        batch_indices : (B',) int
            From 0 to B - 1, repeated or left out at will; B' is the new batch.

        Raises
        ------
        TypeError
            If `batch_indices` is not integer.
        ValueError
            If it is empty, not one-dimensional, or outside 0 to B - 1.
        """
        chosen = indices("batch_indices", batch_indices, self.batch)
        held = self._held()
        self._buffers.replace([(entry, 0, held[entry]) for entry in chosen], self.capacity)
        self._lengths = [self._lengths[entry] for entry in chosen]
        self._dropped = [self._dropped[entry] for entry in chosen]
        self._last_starts = [self._last_starts[entry] for entry in chosen]

    def _held(self) -> list[int]:
        """Keys held by each entry."""
        return [n - d for n, d in zip(self._lengths, self._dropped, strict=True)]

    def _make_room(self, counts: list[int]) -> None:
        """Have room for counts[b] more tokens in each entry b: drop old keys, else grow."""
        held = self._held()
        if max(n + count for n, count in zip(held, counts, strict=True)) <= self.capacity:
            return
        # The first of the new tokens sees itself and the window - 1 tokens before it.
        keep = held if self.window is None else [min(n, self.window - 1) for n in held]
        self._buffers.make_room(held, keep, counts)
        self._dropped = [n - k for n, k in zip(self._lengths, keep, strict=True)]

    def _check_window(self, name: str, entry: int, position: int) -> None:
        """Raise ValueError if a query at this position would see a key that was dropped."""
        if self.window is not None and position - (self.window - 1) < self._dropped[entry] > 0:
            raise ValueError(
                f"{name}: a token at position {position} of entry {entry} sees {self.window} keys, "
                f"but those before position {self._dropped[entry]} left the window"
            )
