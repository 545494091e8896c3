"""Attention over packed sequences: batches of unequal lengths without padding."""

from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, TypedDict, Unpack, overload

from cpuattn import _core

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cpuattn._attention import Window
    from cpuattn._core import Plan

    class _Options(TypedDict, total=False):
        mask: ArrayLike | None
        bias: ArrayLike | None
        causal: bool
        window: Window | None
        query_offset: ArrayLike | None
        key_lengths: ArrayLike | None
        query_segments: ArrayLike | None
        key_segments: ArrayLike | None
        alibi_slopes: ArrayLike | None
        sinks: ArrayLike | None
        softcap: SupportsFloat | None
        scale: SupportsFloat | None
        key_scale: ArrayLike | None
        value_scale: ArrayLike | None
        block_table: ArrayLike | None
        out: NDArray[Any] | None
        num_threads: int | None


@overload
def attention_varlen(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
    cu_seqlens_q: "ArrayLike",
    cu_seqlens_k: "ArrayLike | None",
    *,
    return_lse: Literal[False] = ...,
    **options: "Unpack[_Options]",
) -> "NDArray[Any]": ...
@overload
def attention_varlen(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
    cu_seqlens_q: "ArrayLike",
    cu_seqlens_k: "ArrayLike | None",
    *,
    return_lse: Literal[True],
    **options: "Unpack[_Options]",
) -> "tuple[NDArray[Any], NDArray[Any]]": ...
@overload
def attention_varlen(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
    cu_seqlens_q: "ArrayLike",
    cu_seqlens_k: "ArrayLike | None",
    *,
    return_lse: bool,
    **options: "Unpack[_Options]",
) -> "NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]": ...
def attention_varlen(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
    cu_seqlens_q: "ArrayLike",
    cu_seqlens_k: "ArrayLike | None",
    *,
    mask: "ArrayLike | None" = None,
    bias: "ArrayLike | None" = None,
    causal: bool = False,
    window: "Window | None" = None,
    query_offset: "ArrayLike | None" = None,
    key_lengths: "ArrayLike | None" = None,
    query_segments: "ArrayLike | None" = None,
    key_segments: "ArrayLike | None" = None,
    alibi_slopes: "ArrayLike | None" = None,
    sinks: "ArrayLike | None" = None,
    softcap: SupportsFloat | None = None,
    scale: SupportsFloat | None = None,
    key_scale: "ArrayLike | None" = None,
    value_scale: "ArrayLike | None" = None,
    block_table: "ArrayLike | None" = None,
    return_lse: bool = False,
    out: "NDArray[Any] | None" = None,
    num_threads: int | None = None,
) -> "NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]":
    """Compute attention over sequences that are packed behind each other, without padding.

    Sequence b has the queries ``cu_seqlens_q[b]`` to ``cu_seqlens_q[b + 1]`` and the keys
    ``cu_seqlens_k[b]`` to ``cu_seqlens_k[b + 1]``. Its result has the same bits as a call of
    `attention` on it alone.

    Parameters
    ----------
    query : array, shape (total_q, Hq, D)
        The queries of all sequences. Dtypes as in `attention`.
    key : array, shape (total_k, Hkv, D)
        The keys of all sequences.
    value : array, shape (total_k, Hkv, Dv)
        The values of all sequences.
    cu_seqlens_q, cu_seqlens_k : integers, shape (B + 1,)
        Where each sequence begins: from 0, never falling, to total_q and total_k. With
        `block_table`, cu_seqlens_k must be None.
    mask, bias, causal, window, query_offset, key_lengths, query_segments, key_segments : optional
        As in `attention`, for a batch of B sequences that are padded on the right to the longest,
        Lq and Lk: a mask is broadcastable to (B, Hq, Lq, Lk), and what it says of the padding is
        not read. `query_offset` is ``length of keys - length of queries`` by default.
    alibi_slopes, sinks, softcap, scale : optional
        As in `attention`.
    key_scale, value_scale : arrays of float32, shape (total_k, Hkv), optional
        For a key and value of int8.
    block_table : integers, shape (B, P), optional
        For packed queries over a paged cache, as in a step that serves prompts and single tokens
        together: key, value and scales are then pages as in `attention`, of which sequence b has
        the first ``key_lengths[b]`` tokens, and Lk is P * page_size.
    return_lse, out, num_threads : optional
        As in `attention`; `out` is (total_q, Hq, Dv).

    Returns
    -------
    out : array, shape (total_q, Hq, Dv)
        As in `attention`.
    lse : array, shape (total_q, Hq)
        Only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Examples
    --------
    >>> import numpy as np, cpuattn
    >>> x = np.zeros((5, 1, 4), np.float32)
    >>> value = np.arange(5, dtype=np.float32).reshape(5, 1, 1)
    >>> cpuattn.attention_varlen(x, x, value, [0, 2, 5], [0, 2, 5])[:, 0, 0]
    array([0.5, 0.5, 3. , 3. , 3. ], dtype=float32)
    """
    _check_given(cu_seqlens_q)
    result: NDArray[Any] | tuple[NDArray[Any], NDArray[Any]] = _core.attention(
        query,
        key,
        value,
        mask,
        bias,
        causal,
        window,
        query_offset,
        key_lengths,
        query_segments,
        key_segments,
        alibi_slopes,
        sinks,
        softcap,
        scale,
        num_threads,
        key_scale,
        value_scale,
        block_table,
        cu_seqlens_q,
        cu_seqlens_k,
        out,
        return_lse,
    )
    return result


def explain_varlen(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
    cu_seqlens_q: "ArrayLike",
    cu_seqlens_k: "ArrayLike | None",
    *,
    mask: "ArrayLike | None" = None,
    bias: "ArrayLike | None" = None,
    causal: bool = False,
    window: "Window | None" = None,
    query_offset: "ArrayLike | None" = None,
    key_lengths: "ArrayLike | None" = None,
    query_segments: "ArrayLike | None" = None,
    key_segments: "ArrayLike | None" = None,
    alibi_slopes: "ArrayLike | None" = None,
    sinks: "ArrayLike | None" = None,
    softcap: SupportsFloat | None = None,
    scale: SupportsFloat | None = None,
    key_scale: "ArrayLike | None" = None,
    value_scale: "ArrayLike | None" = None,
    block_table: "ArrayLike | None" = None,
    return_lse: bool = False,  # noqa: ARG001 (the same arguments as attention_varlen)
    out: "NDArray[Any] | None" = None,
    num_threads: int | None = None,
) -> "list[Plan]":
    """Tell how `attention_varlen` would run with the same arguments, without running it.

    Parameters
    ----------
    query, key, value : arrays
        As in `attention_varlen`.
    cu_seqlens_q, cu_seqlens_k : integers, shape (B + 1,)
        As in `attention_varlen`; cu_seqlens_k may be None with `block_table`.
    mask, bias, causal, window, query_offset, key_lengths, query_segments, key_segments : optional
        As in `attention_varlen`.
    alibi_slopes, sinks, softcap, scale, key_scale, value_scale, block_table : optional
        As in `attention_varlen`.
    return_lse, out, num_threads : optional
        As in `attention_varlen`. return_lse changes nothing, and `out` is not written.

    Returns
    -------
    list of dict
        One plan, as `explain` gives it, for each kernel that would run, one after the other:
        "decode" over the sequences of at most 8 query rows per key/value head, then "forward"
        over the other ones. Where nothing is to be computed, one plan whose kernel is "empty".
        ``num_chunks`` belongs to the longest keys, ``work_items`` the sum over these sequences.

    Raises
    ------
    TypeError, ValueError
        As in `attention_varlen`.

    Examples
    --------
    >>> import numpy as np, cpuattn
    >>> x = np.zeros((40, 1, 64), np.float32)
    >>> [plan["kernel"] for plan in cpuattn.explain_varlen(x, x, x, [0, 1, 40], [0, 1, 40])]
    ['decode', 'forward']
    """
    _check_given(cu_seqlens_q)
    return _core.explain(
        query,
        key,
        value,
        mask,
        bias,
        causal,
        window,
        query_offset,
        key_lengths,
        query_segments,
        key_segments,
        alibi_slopes,
        sinks,
        softcap,
        scale,
        num_threads,
        key_scale,
        value_scale,
        block_table,
        cu_seqlens_q,
        cu_seqlens_k,
        out,
    )


def _check_given(cu_seqlens_q: object) -> None:
    """Raise ValueError if this is None: the core would compute plain attention."""
    if cu_seqlens_q is None:
        raise ValueError("cu_seqlens_q is missing; it says where the queries of a sequence begin")
