"""Keys and values of many sequences in pages of one memory, with shared prefixes."""

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cpuattn._arrays import as_array, as_integers
from cpuattn._attention import attention
from cpuattn._cache_dtypes import stored_dtype
from cpuattn._checks import check_size, per_entry
from cpuattn._kv_arrays import KVArrays
from cpuattn._page_pool import PagePool
from cpuattn._page_sequence import Growth, Sequence

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
    A call that raises leaves every sequence as it was. Letters: n number of ids given to a call.

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
        self._page_size = check_size("page_size", page_size, at_least=1)
        kv_heads = check_size("kv_heads", kv_heads, at_least=1)
        head_dim = check_size("head_dim", head_dim, at_least=1)
        value_dim = (
            head_dim if value_dim is None else check_size("value_dim", value_dim, at_least=1)
        )
        shape = (num_pages, kv_heads, self._page_size, head_dim)
        self._arrays = KVArrays(shape, value_dim, stored_dtype("dtype", dtype))
        self._pool = PagePool(num_pages)
        self._sequences: dict[int, Sequence] = {}
        self._next_id = 0

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self._page_size

    @property
    def free_pages(self) -> int:
        """Pages that no sequence holds."""
        return self._pool.free

    @property
    def lengths(self) -> dict[int, int]:
        """Tokens of each sequence, by its id."""
        return {seq_id: sequence.length for seq_id, sequence in self._sequences.items()}

    @property
    def keys(self) -> NDArray[Any]:
        """View of the pages of keys, (num_pages, Hkv, page_size, D); unused rows are undefined."""
        return self._arrays.keys[:]

    @property
    def values(self) -> NDArray[Any]:
        """View of the pages of values, (num_pages, Hkv, page_size, Dv), like `keys`."""
        return self._arrays.values[:]

    @property
    def key_scales(self) -> NDArray[np.float32] | None:
        """View of the scales of the keys, (num_pages, Hkv, page_size), if int8; otherwise None."""
        return self._arrays.key_scales

    @property
    def value_scales(self) -> NDArray[np.float32] | None:
        """View of the scales of the values, like `key_scales`."""
        return self._arrays.value_scales

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, scales included."""
        return self._arrays.nbytes

    def add(self) -> int:
        """Begin an empty sequence.

        Returns
        -------
        int
            Its id, which no other sequence of this cache ever has.
        """
        return self._named(Sequence())

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
        forked = self._sequence(seq_id).fork()
        self._pool.share(forked.pages)
        return self._named(forked)

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
        sequences = self._chosen(seq_ids)
        if len({id(sequence) for sequence in sequences}) < len(sequences):
            raise ValueError(f"seq_ids must name each sequence once, got {np.asarray(seq_ids)}")
        key, value = self._arrays.check(key, value, len(sequences))
        tokens = key.shape[2]
        counts = per_entry("lengths", tokens if lengths is None else lengths, len(sequences))
        if not 0 <= min(counts) <= max(counts) <= tokens:
            raise ValueError(f"lengths must be from 0 to {tokens}, got {counts}")
        growths = [
            Growth(sequence, count, self._page_size, self._pool)
            for sequence, count in zip(sequences, counts, strict=True)
        ]
        self._grow(growths, key, value)

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
        own = {"block_table", "key_lengths", "key_scale", "value_scale"}
        if given := own & options.keys():
            raise TypeError(f"{', '.join(sorted(given))}: the cache passes its own")
        query, sequences = as_array(query, "query"), self._chosen(seq_ids)
        if query_offset is not None:
            starts = per_entry("query_offset", query_offset, len(sequences))
        else:
            queries = query.shape[-2] if query.ndim > 1 else 1
            starts = [sequence.start(queries) for sequence in sequences]
        options |= self._arrays.scales()
        result: NDArray[Any] | tuple[NDArray[Any], NDArray[Any]] = attention(
            query,
            self._arrays.keys,
            self._arrays.values,
            block_table=_block_table(sequences),
            key_lengths=[sequence.length for sequence in sequences],
            query_offset=starts,
            **options,
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
        return _block_table(self._chosen(seq_ids))

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
            If there is no sequence of that id, or `n` is not such a number.
        """
        sequence = self._sequence(seq_id)
        n = check_size("n", n, at_least=0)
        if n > sequence.length:
            raise ValueError(f"n must be from 0 to the length, {sequence.length}, got {n}")
        pages = -(-n // self._page_size)
        self._pool.release(sequence.pages[pages:])
        del sequence.pages[pages:]
        sequence.length, sequence.last_tokens = n, -1

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
        self._pool.release(self._sequence(seq_id).pages)
        del self._sequences[seq_id]

    def _named(self, sequence: Sequence) -> int:
        seq_id = self._next_id
        self._sequences[seq_id] = sequence
        self._next_id += 1
        return seq_id

    def _sequence(self, seq_id: int) -> Sequence:
        """Return the sequence of this id, or raise TypeError or ValueError."""
        return self._look_up("seq_id", check_size("seq_id", seq_id, at_least=0))

    def _chosen(self, seq_ids: ArrayLike) -> list[Sequence]:
        """Return the sequences of these ids, or raise TypeError or ValueError."""
        ids = as_integers(seq_ids, "seq_ids")
        if ids.ndim != 1 or not ids.size:
            raise ValueError(f"seq_ids must have shape (n,) with n > 0, got {ids.shape}")
        return [self._look_up("seq_ids", seq_id) for seq_id in ids.tolist()]

    def _look_up(self, name: str, seq_id: int) -> Sequence:
        try:
            return self._sequences[seq_id]
        except KeyError:
            raise ValueError(f"{name}: there is no sequence {seq_id}") from None

    def _grow(self, growths: list[Growth], key: NDArray[Any], value: NDArray[Any]) -> None:
        """Write the tokens of all sequences, then let them have them: all or none."""
        new = self._pool.take(sum(growth.needed for growth in growths))
        unused = iter(new)
        try:
            moves = []
            for entry, growth in enumerate(growths):
                own = [next(unused) for _ in range(growth.needed)]
                moves += growth.prepare(own, self._arrays, entry)
            self._arrays.write(key, value, moves)
        except BaseException:
            self._pool.release(new)
            raise
        for growth in growths:
            growth.commit(key.shape[2])


def _block_table(sequences: list[Sequence]) -> NDArray[np.int64]:
    most = max(1, *(len(sequence.pages) for sequence in sequences))
    table = np.zeros((len(sequences), most), np.int64)
    for row, sequence in zip(table, sequences, strict=True):
        row[: len(sequence.pages)] = sequence.pages
    return table
