"""The attention call: names, defaults and documentation. Checks and work are in the core."""

from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, SupportsIndex, TypeAlias, overload

from cpuattn import _core

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cpuattn._core import Plan

    Window: TypeAlias = SupportsIndex | tuple[SupportsIndex | None, SupportsIndex | None]
    Stage: TypeAlias = Literal["scores", "softcapped", "masked", "weights"]


@overload
def attention(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
    *,
    mask: "ArrayLike | None" = ...,
    bias: "ArrayLike | None" = ...,
    causal: bool = ...,
    window: "Window | None" = ...,
    query_offset: "ArrayLike | None" = ...,
    key_lengths: "ArrayLike | None" = ...,
    query_segments: "ArrayLike | None" = ...,
    key_segments: "ArrayLike | None" = ...,
    alibi_slopes: "ArrayLike | None" = ...,
    sinks: "ArrayLike | None" = ...,
    softcap: SupportsFloat | None = ...,
    scale: SupportsFloat | None = ...,
    key_scale: "ArrayLike | None" = ...,
    value_scale: "ArrayLike | None" = ...,
    block_table: "ArrayLike | None" = ...,
    return_lse: Literal[False] = ...,
    out: "NDArray[Any] | None" = ...,
    num_threads: int | None = ...,
) -> "NDArray[Any]": ...
@overload
def attention(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
    *,
    mask: "ArrayLike | None" = ...,
    bias: "ArrayLike | None" = ...,
    causal: bool = ...,
    window: "Window | None" = ...,
    query_offset: "ArrayLike | None" = ...,
    key_lengths: "ArrayLike | None" = ...,
    query_segments: "ArrayLike | None" = ...,
    key_segments: "ArrayLike | None" = ...,
    alibi_slopes: "ArrayLike | None" = ...,
    sinks: "ArrayLike | None" = ...,
    softcap: SupportsFloat | None = ...,
    scale: SupportsFloat | None = ...,
    key_scale: "ArrayLike | None" = ...,
    value_scale: "ArrayLike | None" = ...,
    block_table: "ArrayLike | None" = ...,
    return_lse: Literal[True],
    out: "NDArray[Any] | None" = ...,
    num_threads: int | None = ...,
) -> "tuple[NDArray[Any], NDArray[Any]]": ...
@overload
def attention(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
    *,
    mask: "ArrayLike | None" = ...,
    bias: "ArrayLike | None" = ...,
    causal: bool = ...,
    window: "Window | None" = ...,
    query_offset: "ArrayLike | None" = ...,
    key_lengths: "ArrayLike | None" = ...,
    query_segments: "ArrayLike | None" = ...,
    key_segments: "ArrayLike | None" = ...,
    alibi_slopes: "ArrayLike | None" = ...,
    sinks: "ArrayLike | None" = ...,
    softcap: SupportsFloat | None = ...,
    scale: SupportsFloat | None = ...,
    key_scale: "ArrayLike | None" = ...,
    value_scale: "ArrayLike | None" = ...,
    block_table: "ArrayLike | None" = ...,
    return_lse: bool,
    out: "NDArray[Any] | None" = ...,
    num_threads: int | None = ...,
) -> "NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]": ...
def attention(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
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
    r"""Compute exact softmax attention in blocks, without the matrix of scores.

    ``out = softmax(mask(softcap(scale * query @ key.T) + bias)) @ value``, where every option is
    off unless it is given and all of them may be combined. Memory beyond the output is at most
    2 MiB per thread, whatever the lengths (for a head_dim of at most 2048).

    Letters: B batch (any number of leading dimensions), Hq query heads, Hkv key/value heads
    (Hq a multiple of Hkv; query head h reads key head ``h // (Hq // Hkv)``), Lq and Lk lengths,
    D head_dim, Dv head_dim of value.

    Parameters
    ----------
    query : array, shape (..., Hq, Lq, D)
        float32, float16, ml_dtypes.bfloat16 or float64, of any strides. (Lq, D) and (Hq, Lq, D)
        are accepted too, and leading dimensions broadcast between query, key and value without a
        copy. Anything with ``__array__`` or ``__dlpack__`` in CPU memory is an array, such as a
        tensor of torch (its bfloat16 needs ml_dtypes) or JAX; a masked array is none. Heads
        stand before the length: pass (B, L, H, D), the order of flash-attention and JAX, as
        ``x.swapaxes(1, 2)``, a view. If Lq is Lk, the wrong order cannot be noticed.
    key : array, shape (..., Hkv, Lk, D)
        float64 if query is; else float32, float16, bfloat16 or int8, whatever query is.
    value : array, shape (..., Hkv, Lk, Dv)
        Of key's dtype.
    mask : array of bool, broadcastable to (..., Hq, Lq, Lk), optional
        True where a query may attend to a key. Read in place, never expanded. A padding mask
        (B, Lk), True at valid keys, is passed as ``mask[:, None, None, :]``.
    bias : array of any of these float dtypes, broadcastable to (..., Hq, Lq, Lk), optional
        Added to the scaled (and soft-capped) scores. -inf masks.
    causal : bool, default False
        Query i sees key j only if ``j <= i + query_offset``.
    window : int or (int or None, int or None), optional
        Sliding window (left, right): ``i + query_offset - left <= j <= i + query_offset + right``;
        None leaves a side unbounded, and an int w means (w, w).
    query_offset : int or integers of shape (B,), optional
        Position of query 0 on the axis of keys. Default: ``(key_lengths or Lk) - Lq``, so that
        the last query is aligned with the last key; 0 aligns the first ones.
    key_lengths : integers, shape (B,), optional
        Only keys [0, n) of each batch entry take part (right padding).
    query_segments, key_segments : integers, shapes (B, Lq) and (B, Lk), optional
        A query sees only keys of an equal id (packed documents). Given together.
    alibi_slopes : floats, shape (Hq,) or (B, Hq), optional
        Adds ``-slope * abs(i + query_offset - j)`` to the scores (Press et al.,
        arXiv:2108.12409).
    sinks : floats, shape (Hq,), optional
        One more logit per head in the denominator of the softmax (Xiao et al.,
        arXiv:2309.17453, in the learned form of gpt-oss).
    softcap : float, optional
        Replaces a score s by ``softcap * tanh(s / softcap)`` before bias and mask (Gemma 2,
        arXiv:2408.00118).
    scale : float, optional
        Default ``1 / sqrt(D)``.
    key_scale, value_scale : arrays of float32, broadcastable to (..., Hkv, Lk), optional
        For a key and value of int8, and only for them: an element is its integer times the scale
        of its token. They are converted as they are read, never as a whole (see
        `quantize_int8`).
    block_table : integers, shape (..., P), optional
        For a paged cache: key and value are then (num_pages, Hkv, page_size, D or Dv), scales
        (num_pages, Hkv, page_size), and token t of a batch entry lies in row ``t % page_size`` of
        page ``block_table[..., t // page_size]``. Lk is P * page_size. Needs `key_lengths`; pages
        behind them are not looked up, whatever their index (Kwon et al., arXiv:2309.06180).
    return_lse : bool, default False
        Also return the log-sum-exp of each row.
    out : array, optional
        Written in place and returned; may be strided, must not overlap an input. float64 if
        query is, else float32, float16 or bfloat16. Also a tensor of torch in CPU memory.
    num_threads : int, optional
        For this call only. Results do not depend on it.

    Returns
    -------
    out : array, shape (..., Hq, Lq, Dv)
        Of query's dtype, or of the dtype of `out`. It is rounded once from float32 (float64 for
        float64), in which everything is computed. It has as many dimensions as the largest of
        query, key and value. A row that sees no key is 0.
    lse : array, shape (..., Hq, Lq)
        Only with `return_lse`: natural logarithm of the sum of exp(score), float32 (float64 for
        float64); -inf on a row that sees no key (its sink, if there is one).

    Raises
    ------
    TypeError
        An argument is of the wrong type or dtype.
    ValueError
        Shapes do not fit together, or a value is out of its range. The message names the
        argument, what it got and what is allowed.
    KeyboardInterrupt
        Ctrl-C ends a long call.

    Notes
    -----
    The softmax is computed online over blocks of keys (Milakov and Gimelshein, arXiv:1805.02867;
    Dao et al., arXiv:2205.14135). Keys and values that a row may not see never influence it, not
    even if they are NaN. The bits of a row depend neither on the number of threads, nor on the
    rest of the batch, nor on strides. docs/semantics.md has every rule of the edges.

    Examples
    --------
    >>> import numpy as np, cpuattn
    >>> rng = np.random.default_rng(0)
    >>> query, key, value = rng.standard_normal((3, 2, 8, 100, 64), dtype=np.float32)
    >>> cpuattn.attention(query, key, value, causal=True).shape
    (2, 8, 100, 64)
    """
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
        None,
        None,
        out,
        return_lse,
    )
    return result


def attention_weights(
    query: "ArrayLike",
    key: "ArrayLike",
    *,
    stage: "Stage" = "weights",
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
    block_table: "ArrayLike | None" = None,
    out: "NDArray[Any] | None" = None,
    num_threads: int | None = None,
) -> "NDArray[Any]":
    """Return the matrix of attention weights, or of scores, that `attention` never builds.

    Parameters
    ----------
    query : array, shape (..., Hq, Lq, D)
        As in `attention`, like all options below.
    key : array, shape (..., Hkv, Lk, D)
        As in `attention`.
    stage : {"scores", "softcapped", "masked", "weights"}, default "weights"
        How far to go: ``scale * query @ key.T``; that after softcap; after bias, ALiBi and masks
        (-inf where masked); or the softmax of that.
    mask, bias, causal, window, query_offset, key_lengths, query_segments, key_segments : optional
        As in `attention`.
    alibi_slopes, sinks, softcap, scale, key_scale : optional
        As in `attention`. With sinks a row of weights sums to less than 1.
    block_table : integers, shape (..., P), optional
        As in `attention`. Tokens behind `key_lengths` are not looked up: their score is -inf at
        every stage.
    out, num_threads : optional
        As in `attention`; `out` is (..., Hq, Lq, Lk).

    Returns
    -------
    array, shape (..., Hq, Lq, Lk)
        Of query's dtype or of the dtype of `out`. A row that sees no key has weights of 0.

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Examples
    --------
    >>> import numpy as np, cpuattn
    >>> cpuattn.attention_weights(np.zeros((2, 4)), np.zeros((2, 4)), causal=True)
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    return _core.attention_weights(
        query,
        key,
        stage,
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
        None,
        block_table,
        None,
        None,
        out,
    )


def explain(
    query: "ArrayLike",
    key: "ArrayLike",
    value: "ArrayLike",
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
    return_lse: bool = False,  # noqa: ARG001 (the same arguments as attention)
    out: "NDArray[Any] | None" = None,
    num_threads: int | None = None,
) -> "Plan":
    """Tell how `attention` would run with the same arguments, without running it.

    Parameters
    ----------
    query, key, value : arrays
        As in `attention`.
    mask, bias, causal, window, query_offset, key_lengths, query_segments, key_segments : optional
        As in `attention`.
    alibi_slopes, sinks, softcap, scale, key_scale, value_scale, block_table : optional
        As in `attention`.
    return_lse, out, num_threads : optional
        As in `attention`. return_lse changes nothing, and `out` is not written.

    Returns
    -------
    dict
        ``kernel`` ("forward": queries in the lanes; "decode": head_dim in the lanes, for at most
        8 query rows per key/value head; "empty"), ``isa``, ``products`` (the dtype that is
        multiplied: "bfloat16" where query, key, value and result are bfloat16 and the CPU can,
        "int8" where 3 to 8 rows meet an int8 cache and it can, else "float32" or "float64"),
        ``query_block`` (rows per work item), ``key_block`` (keys per update of the softmax),
        ``key_chunk`` and ``num_chunks`` (keys that are summed up apart and merged),
        ``work_items``, ``threads``, ``scratch_bytes`` (memory beyond the output, of all threads)
        and ``copies`` (inputs that must be copied because they are byte-swapped or not aligned).

    Raises
    ------
    TypeError, ValueError
        As in `attention`.

    Examples
    --------
    >>> import numpy as np, cpuattn
    >>> x = np.zeros((1, 64), np.float32)
    >>> cpuattn.explain(x, x, x)["kernel"]
    'decode'
    """
    (plan,) = _core.explain(
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
        None,
        None,
        out,
    )
    return plan
