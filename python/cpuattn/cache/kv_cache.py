"""Keys and values of past tokens, kept so that generation computes each of them once."""

from __future__ import (
    annotations,
)  # help() then shows ArrayLike, and not what it stands for

import reprlib
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cpuattn import _core
from cpuattn._arrays import as_array
from cpuattn._attention import attention
from cpuattn._checks import check_size, indices, per_entry
from cpuattn._dtypes import stored_dtype
from cpuattn.cache.kv_arrays import KVArrays
from cpuattn.cache.kv_state import KVState, Limits
from cpuattn.cache.sink_window import attend_sinks_and_window

if TYPE_CHECKING:
    from cpuattn.cache.appended import Appended

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
    max_capacity : int, optional
        Tokens that no entry may exceed: the buffers never grow beyond it, and an append that needs
        more raises CacheFullError. With ``capacity`` of the same size, and without a window,
        nothing is ever reallocated.
    dtype : {"float32", "float64", "float16", "bfloat16", "int8"}
        Of keys and values. "bfloat16" needs the package ml_dtypes; "int8" keeps one float32 scale
        per token and head, as `quantize_int8` defines it.
    window : int, optional
        Sliding window: a query sees at most `window` keys, its own included, as `sliding_window`
        in model configurations says it (`attention` calls it ``window=(window - 1, None)``).
        Older keys are dropped when the buffers are full: the rest moves into new ones. With
        appends of L tokens these never outgrow the larger of `capacity` and
        sink_tokens + 2 * (window - 1) + L tokens.
    sink_tokens : int, default 0
        First tokens of each entry that are never dropped, and that queries see besides the
        window (Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023).

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer or out of range, or the dtype is not allowed.
    ImportError
        If the dtype is bfloat16 and ml_dtypes is not installed.

    Notes
    -----
    The position of a token is the number of tokens that its entry held before it; it stays the
    same when older keys are dropped. `lengths` and `query_offset` count positions. With
    `sink_tokens` a query at position p sees the keys at positions j < sink_tokens and those at
    j > p - window, all subject to `causal` and the other options; ALiBi counts the true distance.
    `attend` then computes both parts apart and joins them with `merge_attention`.

    With a window, positions from the last append on may be queried, and the one before it unless
    `max_capacity` is too small for its key. Earlier ones are refused, also where memory still has
    what they see.

    A method takes place wholly or not at all, whatever exception ends it and wherever that comes
    from: Ctrl-C, a signal handler, a lack of memory. Threads may share a cache; docs/semantics.md
    says what each of them then sees.

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
        max_capacity: int | None = None,
        dtype: DTypeLike = "float32",
        window: int | None = None,
        sink_tokens: int = 0,
    ) -> None:
        batch = check_size("batch", batch, at_least=1)
        kv_heads = check_size("kv_heads", kv_heads, at_least=1)
        head_dim = check_size("head_dim", head_dim, at_least=1)
        value_dim = (
            head_dim if value_dim is None else check_size("value_dim", value_dim, at_least=1)
        )
        capacity = check_size("capacity", capacity, at_least=0)
        if max_capacity is not None:
            max_capacity = check_size("max_capacity", max_capacity, at_least=max(capacity, 1))
        if window is not None:
            window = check_size("window", window, at_least=1)
        sink_tokens = check_size("sink_tokens", sink_tokens, at_least=0)
        if sink_tokens and window is None:
            raise ValueError(
                f"sink_tokens={sink_tokens} needs a window: without one nothing is dropped"
            )
        shape = (batch, kv_heads, capacity, head_dim)
        arrays = KVArrays(shape, value_dim, stored_dtype("dtype", dtype))
        self._state = KVState.empty(arrays, Limits(window, sink_tokens, max_capacity))

    def __repr__(self) -> str:
        state = self._state
        _, kv_heads, _, head_dim = state.arrays.keys.shape
        shown = {"batch": len(state.lengths), "kv_heads": kv_heads, "head_dim": head_dim}
        shown["value_dim"] = state.arrays.values.shape[3]
        options = {
            "max_capacity": (state.limits.max_capacity, None),
            "window": (state.limits.window, None),
            "sink_tokens": (state.limits.sinks, 0),
        }
        shown |= {"capacity": state.arrays.capacity}
        shown |= {name: value for name, (value, default) in options.items() if value != default}
        text = ", ".join(f"{name}={value}" for name, value in shown.items())
        lengths = reprlib.repr(list(state.lengths))
        return f"<KVCache {text}, dtype={state.arrays.dtype}, lengths={lengths}>"

    @property
    def batch(self) -> int:
        """Number of batch entries."""
        return len(self._state.lengths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each entry, (B,): the position of its next token; dropped ones count."""
        return np.array(self._state.lengths, np.int64)

    @property
    def dropped(self) -> NDArray[np.int64]:
        """Tokens of each entry that are no longer held, (B,); the first `sink_tokens` always are.

        Tokens that left the window stay until the buffers are full.
        """
        return np.array(self._state.dropped, np.int64)

    @property
    def window(self) -> int | None:
        """Keys that a query sees besides the sinks, its own included; None: all."""
        return self._state.limits.window

    @property
    def sink_tokens(self) -> int:
        """First tokens of each entry that never leave the window."""
        return self._state.limits.sinks

    @property
    def dtype(self) -> np.dtype[Any]:
        """What keys and values are stored as."""
        return self._state.arrays.dtype

    @property
    def keys(self) -> NDArray[Any]:
        """View of the keys held, (B, Hkv, Lk, D), Lk being the most that an entry holds.

        The first `sink_tokens` rows of an entry hold the tokens at these positions; a later row
        r holds the token at position r + dropped. What lies beyond ``lengths - dropped`` in
        another entry is undefined.
        """
        state = self._state
        return state.arrays.keys[:, :, : max(state.held())]

    @property
    def values(self) -> NDArray[Any]:
        """View of the values held, (B, Hkv, Lk, Dv), like `keys`."""
        state = self._state
        return state.arrays.values[:, :, : max(state.held())]

    @property
    def key_scales(self) -> NDArray[np.float32] | None:
        """View of the scales of the keys, (B, Hkv, Lk), if the dtype is int8; otherwise None."""
        state = self._state
        return state.arrays.scales(slice(max(state.held()))).get("key_scale")

    @property
    def value_scales(self) -> NDArray[np.float32] | None:
        """View of the scales of the values, like `key_scales`."""
        state = self._state
        return state.arrays.scales(slice(max(state.held()))).get("value_scale")

    @property
    def capacity(self) -> int:
        """Tokens that each entry has room for."""
        return self._state.arrays.capacity

    @property
    def max_capacity(self) -> int | None:
        """Tokens that no entry may exceed; None: as many as memory holds."""
        return self._state.limits.max_capacity

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, scales and room for further tokens included."""
        return self._state.arrays.nbytes

    def append(self, key: ArrayLike, value: ArrayLike, *, lengths: ArrayLike | None = None) -> None:
        """Add the keys and values of the next L tokens to every entry, each at its own end.

        Parameters
        ----------
        key : (B, Hkv, L, D) array
            Of any float dtype and strides, stored like `value`.
        value : (B, Hkv, L, Dv) array
            Of any float dtype and strides, also views of this cache; stored in the dtype of the
            cache, rounded to nearest even. What is too large for float16 or bfloat16 becomes
            infinite.
        lengths : int or (B,) int, optional
            Tokens of each entry that count, from 0 to L; the rest is padding on the right, which
            is not stored. All L by default.

        Raises
        ------
        TypeError
            If key or value is not a float array, or `lengths` is not integer.
        ValueError
            If a shape does not fit or a length is outside 0 to L. The cache is then unchanged.
        CacheFullError
            If an entry would exceed `max_capacity`. The cache is then unchanged.
        """
        # One call for tokens of the usual kind: all the rest costs more than a copy.
        if lengths is None and _core.append_tokens(self, self._state, key, value):
            return
        self._append(key, value, lengths)

    def _append(
        self,
        key: ArrayLike,
        value: ArrayLike,
        lengths: ArrayLike | None,
        undo: Appended | None = None,
    ) -> None:
        """Append; begin again if the cache changed meanwhile."""
        done = False
        while not done:
            before = self._state
            arrays, batch = before.arrays, len(before.lengths)
            key, value = arrays.check(key, value, batch)
            tokens = key.shape[2]
            counts = (tokens,) * batch
            if lengths is not None:
                counts = tuple(per_entry("lengths", lengths, batch))
                if not 0 <= min(counts) <= max(counts) <= tokens:
                    raise ValueError(f"lengths must be from 0 to {tokens}, got {list(counts)}")
            roomy = before.with_room(counts)
            each = enumerate(zip(roomy.held(), counts, strict=True))
            moves = [(entry, start, entry, 0, count) for entry, (start, count) in each]
            after = roomy.appended(counts, tokens)
            if undo is not None:
                undo.note(before, after)
            done = _core.store_tokens(
                self, before, after, key, value, after.arrays.every, moves, []
            )

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
    @overload
    def attend(
        self,
        query: ArrayLike,
        *,
        query_offset: ArrayLike | None = ...,
        return_lse: bool,
        **options: Any,
    ) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]: ...
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
            float64 for a float64 cache, else float32, float16 or bfloat16; the output has it too.
        query_offset : int or (B,) int, optional
            Position of query 0. By default as many queries as the last append had tokens are the
            queries of these tokens, padding included; otherwise the last query of an entry stands
            at its last key (bottom-right).
        **options
            Of `attention`, such as ``causal=True``; masks and biases have the key axis of `keys`.
            The cache passes `key_lengths` itself, `window` if it has one, and the scales of int8.

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
            If a query would see keys that left the window.
        """
        while True:
            state = self._state
            result = self._attend(state, query, query_offset, options)
            if self._lasts(state):
                return result

    def _lasts(self, state: KVState) -> bool:
        """Whether the rows of an earlier state still are what they were."""
        now = self._state
        return now is state or now.epoch == state.epoch

    def _attend(
        self,
        state: KVState,
        query: ArrayLike,
        query_offset: ArrayLike | None,
        options: dict[str, Any],
    ) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
        """Attend to the tokens of a state."""
        window, sinks, _ = state.limits
        own = {"key_lengths", "key_scale", "value_scale", "block_table"}
        own |= set() if window is None else {"window"}
        if given := own & options.keys():
            raise TypeError(f"{', '.join(sorted(given))}: the cache passes its own")
        query = as_array(query, "query")
        if query_offset is None:
            starts = state.starts(query.shape[-2] if query.ndim > 1 else 1)
        else:
            starts = tuple(per_entry("query_offset", query_offset, len(state.lengths)))
        if window is not None:
            for entry, start in enumerate(starts):
                state.check("query", entry, start)
        if sinks:
            return attend_sinks_and_window(query, state, starts, options)
        options = dict(options)
        if window is not None:
            options["window"] = (window - 1, None)
        held = state.held()
        offsets = [start - n for start, n in zip(starts, state.dropped, strict=True)]
        if min(held) == max(held) and min(offsets) == max(offsets):
            options["query_offset"] = offsets[0]
        else:
            options["query_offset"], options["key_lengths"] = offsets, held
        arrays, rows = state.arrays, slice(max(held))
        options |= arrays.scales(rows)
        out: NDArray[Any] | tuple[NDArray[Any], NDArray[Any]] = attention(
            query, arrays.keys[:, :, rows], arrays.values[:, :, rows], **options
        )
        return out

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
            left the window. The last append can always be taken back, and so can all tokens.
        """
        done = False
        while not done:
            state = self._state
            shorter = state.truncated(tuple(per_entry("n", n, len(state.lengths))))
            done = _core.replace_state(self, state, shorter)

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
        done = False
        while not done:
            state = self._state
            chosen = indices("batch_indices", batch_indices, len(state.lengths))
            done = _core.replace_state(self, state, state.reordered(chosen))

    def copy(self) -> Self:
        """Copy the cache: what is appended to one of the two does not change the other.

        Returns
        -------
        KVCache
            With the same tokens, capacity and options.
        """
        copied = object.__new__(type(self))
        copied.__dict__ |= self.__dict__
        lasts = False
        while not lasts:
            state = self._state
            copied._state = state.reordered(list(range(len(state.lengths))))
            lasts = self._lasts(state)
        return copied

    __copy__ = copy  # the memory of two caches is never the same
