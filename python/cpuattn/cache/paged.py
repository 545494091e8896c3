"""Keys and values of many sequences in pages of one memory, with shared prefixes."""

from __future__ import (
    annotations,
)  # help() then shows ArrayLike, and not what it stands for

import copy
import reprlib
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cpuattn import _core
from cpuattn._arrays import as_array
from cpuattn._attention import attention
from cpuattn._checks import check_size, per_entry
from cpuattn._dtypes import stored_dtype
from cpuattn.cache.kv_arrays import KVArrays
from cpuattn.cache.page_pool import PagePool
from cpuattn.cache.page_sequence import Sequence
from cpuattn.cache.page_state import PageState, empty_sequence, known_id, known_ids

if TYPE_CHECKING:
    from cpuattn.cache.appended import Appended

__all__ = ["PagedKVCache"]


class PagedKVCache:
    """Key/value cache of one attention layer for sequences that come, go and share prefixes.

    All memory is taken at once, as pages of `page_size` tokens. A sequence, known by its id, holds
    the pages that it needs, in any order; `attend` reads them where they lie. Forks share all
    pages until one of them appends: it then copies the last page, if that is partly filled.

    Parameters
    ----------
    num_pages : int
        Pages that all sequences share out among themselves.
    page_size : int
        Tokens in a page. Small ones waste little at the end of a sequence, large ones are read
        faster.
    kv_heads : int
        Hkv, number of key/value heads.
    head_dim : int
        D, features of a key.
    value_dim : int, optional
        Dv, features of a value; D by default.
    dtype : {"float32", "float64", "float16", "bfloat16", "int8"}
        Of keys and values, as in `KVCache`.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer or too small, or the dtype is not allowed.
    ImportError
        If the dtype is bfloat16 and ml_dtypes is not installed.

    Notes
    -----
    A method takes place wholly or not at all, for all sequences that it names, whatever exception
    ends it and wherever that comes from. Threads may share a cache; docs/semantics.md says what
    each of them then sees. Letters: n number of ids given to a call.

    Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
    PagedAttention", 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from cpuattn import PagedKVCache
    >>> cache = PagedKVCache(num_pages=8, page_size=4, kv_heads=1, head_dim=2)
    >>> prompt = cache.add()
    >>> cache.append([prompt], np.zeros((1, 1, 6, 2)), np.ones((1, 1, 6, 2)))
    >>> answer = cache.fork(prompt)
    >>> cache.append([answer], np.zeros((1, 1, 1, 2)), np.full((1, 1, 1, 2), 8.0))
    >>> cache.lengths, cache.free_pages  # of the fork's two pages, the full one is shared
    ({0: 6, 1: 7}, 5)
    >>> cache.attend(np.ones((2, 1, 1, 2), "float32"), [prompt, answer]).ravel()
    array([1., 1., 2., 2.], dtype=float32)
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        kv_heads: int,
        head_dim: int,
        *,
        value_dim: int | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        num_pages = check_size("num_pages", num_pages, at_least=1)
        page_size = check_size("page_size", page_size, at_least=1)
        kv_heads = check_size("kv_heads", kv_heads, at_least=1)
        head_dim = check_size("head_dim", head_dim, at_least=1)
        value_dim = (
            head_dim if value_dim is None else check_size("value_dim", value_dim, at_least=1)
        )
        shape = (num_pages, kv_heads, page_size, head_dim)
        arrays = KVArrays(shape, value_dim, stored_dtype("dtype", dtype))
        self._state = PageState(arrays, {}, PagePool.all_free(num_pages))

    def __repr__(self) -> str:
        state = self._state
        num_pages, kv_heads, page_size, head_dim = state.arrays.keys.shape
        lengths = {seq_id: sequence.length for seq_id, sequence in state.sequences.items()}
        return (
            f"<PagedKVCache num_pages={num_pages}, page_size={page_size}, kv_heads={kv_heads}, "
            f"head_dim={head_dim}, value_dim={state.arrays.values.shape[3]}, "
            f"dtype={state.arrays.dtype}, free_pages={len(state.pool.free)}, "
            f"lengths={reprlib.repr(lengths)}>"
        )

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # the memory of two caches is never the same

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self._state.page_size

    @property
    def free_pages(self) -> int:
        """Pages that no sequence holds."""
        return len(self._state.pool.free)

    @property
    def lengths(self) -> dict[int, int]:
        """Tokens of each sequence, by its id."""
        return {seq_id: sequence.length for seq_id, sequence in self._state.sequences.items()}

    @property
    def keys(self) -> NDArray[Any]:
        """View of the pages of keys, (num_pages, Hkv, page_size, D); unused rows are undefined."""
        return self._state.arrays.keys[:]

    @property
    def values(self) -> NDArray[Any]:
        """View of the pages of values, (num_pages, Hkv, page_size, Dv), like `keys`."""
        return self._state.arrays.values[:]

    @property
    def key_scales(self) -> NDArray[np.float32] | None:
        """View of the scales of the keys, (num_pages, Hkv, page_size), if int8; otherwise None."""
        return self._state.arrays.key_scales

    @property
    def value_scales(self) -> NDArray[np.float32] | None:
        """View of the scales of the values, like `key_scales`."""
        return self._state.arrays.value_scales

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, scales included."""
        return self._state.arrays.nbytes

    def add(self) -> int:
        """Begin an empty sequence.

        Returns
        -------
        int
            Its id, which no other sequence of this cache ever has.
        """
        done = False
        while not done:
            state = self._state
            done = _core.replace_state(self, state, state.named(empty_sequence()))
        return state.next_id

    def fork(self, seq_id: int) -> int:
        """Begin a sequence with the tokens of another one, in the same pages.

        Parameters
        ----------
        seq_id : int
            The other one.

        Returns
        -------
        int
            The id of the new sequence. It takes no free page until it or the other one grows.

        Raises
        ------
        TypeError, ValueError
            If there is no sequence of that id.
        """
        done = False
        while not done:
            state = self._state
            sequence = state.sequences[known_id(state, seq_id)]
            done = _core.replace_state(self, state, state.named(sequence))
        return state.next_id

    def append(
        self,
        seq_ids: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
    ) -> None:
        """Add the keys and values of the next L tokens to sequences, each at its own end.

        Parameters
        ----------
        seq_ids : (n,) int
            The sequences, each once.
        key : (n, Hkv, L, D) array
            Of any float dtype and strides, stored like `value`.
        value : (n, Hkv, L, Dv) array
            Of any float dtype and strides; stored in the dtype of the cache, rounded to nearest
            even.
        lengths : int or (n,) int, optional
            Tokens of each that count, from 0 to L; the rest is padding on the right, which is not
            stored. All L by default.

        Raises
        ------
        TypeError
            If key or value is not a float array, or ids or lengths are not integer.
        ValueError
            If an id is unknown or given twice, a shape does not fit or a length is outside 0 to L.
        OutOfPagesError
            If fewer pages are free than all of these sequences need together.
        """
        self._append(seq_ids, key, value, lengths)

    def _append(
        self,
        seq_ids: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        lengths: ArrayLike | None,
        undo: Appended | None = None,
    ) -> None:
        """Append; begin again if the cache changed meanwhile."""
        done = False
        while not done:
            before = self._state
            ids = known_ids(before, seq_ids)
            if len(set(ids)) < len(ids):
                raise ValueError(f"seq_ids must name each sequence once, got {np.asarray(seq_ids)}")
            key, value = before.arrays.check(key, value, len(ids))
            tokens = key.shape[2]
            counts = per_entry("lengths", tokens if lengths is None else lengths, len(ids))
            if not 0 <= min(counts) <= max(counts) <= tokens:
                raise ValueError(f"lengths must be from 0 to {tokens}, got {counts}")
            after, copies, moves = before.writeable().grown(ids, counts, tokens)
            if undo is not None:
                undo.note(before, after)
            done = _core.store_tokens(
                self, before, after, key, value, after.arrays.every, moves, copies
            )

    def _take_back(self, before: PageState, after: PageState, seq_ids: list[int]) -> None:
        """Undo an append that others came after, but for sequences that these changed."""
        done = False
        while not done:
            state = self._state
            done = _core.replace_state(self, state, state.take_back(before, after, seq_ids))

    @overload
    def attend(
        self,
        query: ArrayLike,
        seq_ids: ArrayLike,
        *,
        query_offset: ArrayLike | None = ...,
        return_lse: Literal[False] = ...,
        **options: Any,
    ) -> NDArray[Any]: ...
    @overload
    def attend(
        self,
        query: ArrayLike,
        seq_ids: ArrayLike,
        *,
        query_offset: ArrayLike | None = ...,
        return_lse: Literal[True],
        **options: Any,
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...
    @overload
    def attend(
        self,
        query: ArrayLike,
        seq_ids: ArrayLike,
        *,
        query_offset: ArrayLike | None = ...,
        return_lse: bool,
        **options: Any,
    ) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]: ...
    def attend(
        self,
        query: ArrayLike,
        seq_ids: ArrayLike,
        *,
        query_offset: ArrayLike | None = None,
        **options: Any,
    ) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
        """Attention of the queries over all tokens of their sequences.

        Parameters
        ----------
        query : (n, Hq, Lq, D) array
            float64 for a float64 cache, else float32, float16 or bfloat16; the output has it too.
        seq_ids : (n,) int
            The sequence of each; several may name the same one.
        query_offset : int or (n,) int, optional
            Position of query 0 among the tokens. By default as many queries as the last append
            to a sequence had tokens are the queries of these, padding included; otherwise the
            last query stands at the last token.
        **options
            Of `attention`, such as ``causal=True``; masks and biases have a key axis of
            P * page_size tokens, P as in `block_table`. The cache passes `block_table`,
            `key_lengths` and the scales of int8 itself.

        Returns
        -------
        out : ndarray
            (n, Hq, Lq, Dv), as `attention` returns it.
        lse : ndarray
            (n, Hq, Lq), only with ``return_lse=True``.

        Raises
        ------
        TypeError
            If an option is given that the cache passes itself, or ids are not integer.
        ValueError
            If an id is unknown, or a shape does not fit.
        """
        while True:
            state = self._state
            ids = known_ids(state, seq_ids)
            result = self._attend(state, ids, query, query_offset, options)
            if self._lasts(state, ids):
                return result

    def _lasts(self, state: PageState, seq_ids: list[int]) -> bool:
        """Whether the rows of sequences of an earlier state still are what they were."""
        now = self._state
        return now is state or all(
            seq_id in now.sequences and now.sequences[seq_id].epoch == state.sequences[seq_id].epoch
            for seq_id in seq_ids
        )

    def _attend(
        self,
        state: PageState,
        seq_ids: list[int],
        query: ArrayLike,
        query_offset: ArrayLike | None,
        options: dict[str, Any],
    ) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
        """Attend to the tokens of sequences of a state."""
        own = {"block_table", "key_lengths", "key_scale", "value_scale"}
        if given := own & options.keys():
            raise TypeError(f"{', '.join(sorted(given))}: the cache passes its own")
        query, sequences = as_array(query, "query"), [state.sequences[i] for i in seq_ids]
        if query_offset is not None:
            starts = per_entry("query_offset", query_offset, len(sequences))
        else:
            queries = query.shape[-2] if query.ndim > 1 else 1
            starts = [sequence.start(queries) for sequence in sequences]
        result: NDArray[Any] | tuple[NDArray[Any], NDArray[Any]] = attention(
            query,
            state.arrays.keys,
            state.arrays.values,
            block_table=_block_table(sequences),
            key_lengths=[sequence.length for sequence in sequences],
            query_offset=starts,
            **(options | state.arrays.scales()),
        )
        return result

    def block_table(self, seq_ids: ArrayLike) -> NDArray[np.int64]:
        """Give the pages of sequences in the order of their tokens.

        Parameters
        ----------
        seq_ids : (n,) int
            The sequences.

        Returns
        -------
        (n, P) ndarray
            P is the most pages that one of them has, at least 1. Token t of sequence i lies in
            row ``t % page_size`` of page ``table[i, t // page_size]``; unused places are 0.

        Raises
        ------
        TypeError, ValueError
            If ids are not integer or unknown.
        """
        state = self._state
        return _block_table([state.sequences[i] for i in known_ids(state, seq_ids)])

    def truncate(self, seq_id: int, n: int) -> None:
        """Keep the first n tokens of a sequence and release the pages that held only others.

        Parameters
        ----------
        seq_id : int
            The sequence.
        n : int
            From 0 to its present length.

        Raises
        ------
        TypeError, ValueError
            If there is no sequence of that id, or `n` is out of range.
        """
        done = False
        while not done:
            state = self._state
            known = known_id(state, seq_id)
            n = check_size("n", n, at_least=0)
            length = state.sequences[known].length
            if n > length:
                raise ValueError(f"n must be from 0 to the length, {length}, got {n}")
            done = _core.replace_state(self, state, state.truncated(known, n))

    def free(self, seq_id: int) -> None:
        """Forget a sequence and release its pages.

        Parameters
        ----------
        seq_id : int
            The sequence; its id is unknown from now on.

        Raises
        ------
        TypeError, ValueError
            If there is no sequence of that id.
        """
        done = False
        while not done:
            state = self._state
            done = _core.replace_state(self, state, state.without(known_id(state, seq_id)))


def _block_table(sequences: list[Sequence]) -> NDArray[np.int64]:
    most = max(1, *(len(sequence.pages) for sequence in sequences))
    table = np.zeros((len(sequences), most), np.int64)
    for row, sequence in zip(table, sequences, strict=True):
        row[: len(sequence.pages)] = sequence.pages
    return table
