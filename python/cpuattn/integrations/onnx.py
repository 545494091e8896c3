"""The ONNX operator Attention (opsets 23, 24 and 25) over NumPy arrays, without the onnx package.

Sources: the operator's text and function bodies in ONNX 1.23. `onnx_ops` has it as a class for
``onnx.reference.ReferenceEvaluator``.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

import cpuattn
from cpuattn._arrays import as_array
from cpuattn.integrations._onnx_inputs import (
    PRECISIONS,
    check_choices,
    mask_or_bias,
    nonpad_lengths,
    query_key_value,
    window_side,
    with_past,
)

if TYPE_CHECKING:
    from cpuattn._attention import Stage

__all__ = ["AttentionOutputs", "attention"]

# What `attention_weights` calls the four values of qk_matmul_output_mode.
STAGES: "tuple[Stage, ...]" = ("scores", "softcapped", "masked", "weights")


class AttentionOutputs(NamedTuple):
    """The outputs of the operator, in its order."""

    Y: NDArray[Any]
    present_key: NDArray[Any]
    present_value: NDArray[Any]
    qk_matmul_output: NDArray[Any] | None


class _Visibility(NamedTuple):
    """Which keys take part: the first `length` ones, under options of `cpuattn.attention`."""

    length: int
    options: dict[str, Any]


def attention(  # noqa: PLR0917 (the operator's inputs, in its order)
    Q: ArrayLike,
    K: ArrayLike,
    V: ArrayLike,
    attn_mask: ArrayLike | None = None,
    past_key: ArrayLike | None = None,
    past_value: ArrayLike | None = None,
    nonpad_kv_seqlen: ArrayLike | None = None,
    *,
    is_causal: int = 0,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    qk_matmul_output_mode: int | None = None,
    left_window_size: int = -1,
    right_window_size: int = -1,
) -> AttentionOutputs:
    r"""Compute the ONNX operator Attention on the blocked path of `cpuattn.attention`.

    No Lq x Lk array is made, unless `qk_matmul_output_mode` requests one. Letters: B batch, Hq and
    Hkv heads, Lq queries, L keys given, P keys of the past, T = P + L, D and Dv head sizes.

    Parameters
    ----------
    Q : (B, Hq, Lq, D) or (B, Lq, Hq * D) array of float16, bfloat16, float32 or float64
        The queries.
    K : (B, Hkv, L, D) or (B, L, Hkv * D) array
        Of Q's dtype and rank. Query head h reads key head ``h // (Hq // Hkv)``.
    V : (B, Hkv, L, Dv) or (B, L, Hkv * Dv) array of float
        Of Q's rank.
    attn_mask : array of 1 to 4 axes, broadcastable to (B, Hq, Lq, T), optional
        bool: True where a query may attend to a key. Floats are added to the scores, after
        `softcap`. Axes are aligned at the right: three are (Hq, Lq, T). Keys beyond the last axis
        are hidden, also where its size is 1 (opsets 24 and 25; see Notes).
    past_key : (B, Hkv, P, D) array of K's dtype, optional
        Put before K. Together with `past_value`.
    past_value : (B, Hkv, P, Dv) array of V's dtype, optional
        Put before V.
    nonpad_kv_seqlen : (B,) array of int, optional
        Only the first keys of each batch entry take part, this many (opset 24). K and V are then
        the whole cache, and there is no past.
    is_causal : {0, 1}, default 0
        1: query i sees key j only if ``j <= i + offset``. The offset is P with a past,
        ``nonpad_kv_seqlen - Lq`` with lengths, and else 0, which aligns the first query with the
        first key; `cpuattn.attention` by itself aligns the last ones.
    q_num_heads, kv_num_heads : int, optional
        Hq and Hkv. Needed for 3-D inputs; for 4-D ones they may only repeat the shape (opset 25
        wants them left out).
    scale : float, optional
        Default ``1 / sqrt(D)``.
    softcap : float, default 0.0
        Replaces a score s by ``softcap * tanh(s / softcap)``; 0 is off.
    softmax_precision : {1, 10, 11, 16}, optional
        The least precision of the softmax: float32, float16, float64, bfloat16, as numbered by
        ONNX. It is float32 anyway, float64 for float64 inputs; 11 makes it float64 for all.
    qk_matmul_output_mode : {0, 1, 2, 3}, optional
        Also return ``scale * Q @ K.T`` (0), that after `softcap` (1), that after masks and
        `attn_mask` (2), or the softmax of that (3). None does not, as a node without that output;
        the operator's default for a node with it is 0.
    left_window_size, right_window_size : int, default -1
        Query i sees keys from ``i + offset - left`` to ``i + offset + right``, with the offset
        of `is_causal`, of which they are independent (opset 25). -1 leaves a side open.

    Returns
    -------
    Y : array, shape (B, Hq, Lq, Dv), or (B, Lq, Hq * Dv) for 3-D inputs
        Of Q's dtype. A row that sees no key is 0, in all opsets (the errata of ONNX 1.23).
    present_key, present_value : arrays, shapes (B, Hkv, T, D) and (B, Hkv, T, Dv)
        Past and given ones joined. Without a past they are views of K and V.
    qk_matmul_output : array, shape (B, Hq, Lq, T), or None
        Of Q's dtype.

    Raises
    ------
    TypeError
        A dtype is not allowed, or differs from its partner.
    ValueError
        Shapes do not fit together, a value is out of its range, or `nonpad_kv_seqlen` meets a
        past. The message names the argument, what it got and what is allowed.

    Notes
    -----
    The three opsets differ in what a node may have, not in what it means: 24 brought
    `nonpad_kv_seqlen` and shorter masks, 25 the windows. Where ONNX says two things:

    - Mode 0 is the product before `softcap`, as the text and the function bodies have it; the
      Python reference of ONNX 1.23 returns it after `softcap`.
    - A last axis of 1 in `attn_mask` is a mask for one key, as in the function bodies of opsets 24
      and 25 and in the reference. In opset 23 it broadcasts: `onnx_ops` does that for such models.
    - A causal mask has Lq rows even if `attn_mask` has one; the reference takes its rows
      from `attn_mask`.
    - A negative `softcap`, which means "off" in one place and a cap in another, is an error.

    Sums are kept in float32 (float64), where the reference rounds every step to Q's dtype, and a
    NaN in a hidden key or value does not reach the result, as always in cpuattn.

    Examples
    --------
    >>> import numpy as np
    >>> from cpuattn.integrations.onnx import attention
    >>> x = np.zeros((1, 2, 4), np.float32)  # batch 1, length 2, two heads of size 2
    >>> V = np.array([[[0, 0, 2, 2], [4, 4, 6, 6]]], np.float32)
    >>> attention(x, x, V, is_causal=1, q_num_heads=2, kv_num_heads=2).Y
    array([[[0., 0., 2., 2.],
            [2., 2., 4., 4.]]], dtype=float32)
    """
    query, key, value = query_key_value(Q, K, V, q_num_heads, kv_num_heads)
    if nonpad_kv_seqlen is not None and (past_key is not None or past_value is not None):
        raise ValueError("nonpad_kv_seqlen is given with past_key or past_value; one must be None")
    present_key, present_value, past = with_past(key, value, past_key, past_value)
    check_choices(is_causal, softcap, softmax_precision, qk_matmul_output_mode)
    window = (
        window_side("left_window_size", left_window_size),
        window_side("right_window_size", right_window_size),
    )
    visible = _visibility(query, present_key.shape[2], past, attn_mask, nonpad_kv_seqlen)
    visible.options.update(causal=bool(is_causal), window=window)
    scoring = {"scale": scale, "softcap": softcap or None}

    dtype = _working_dtype(query, value, softmax_precision)
    queries, keys, values = (
        x.astype(dtype, copy=False) for x in (query, present_key, present_value)
    )
    output = _output(queries, keys, values, visible, scoring, merged=as_array(Q, "Q").ndim == 3)
    output = output.astype(query.dtype, copy=False)
    qk = None
    if qk_matmul_output_mode is not None:
        qk = _qk_matmul_output(queries, keys, visible, scoring, qk_matmul_output_mode)
        qk = qk.astype(query.dtype, copy=False)
    return AttentionOutputs(output, present_key, present_value, qk)


def _visibility(
    query: NDArray[Any],
    total: int,
    past: int,
    attn_mask: ArrayLike | None,
    nonpad_kv_seqlen: ArrayLike | None,
) -> _Visibility:
    """Return what the mask, the lengths and the past say about visible keys."""
    batch, heads, rows, _ = query.shape
    length = total
    options: dict[str, Any] = {"query_offset": past}
    if attn_mask is not None:
        mask = mask_or_bias(attn_mask, (batch, heads, rows), total)
        options["mask" if mask.dtype == np.bool_ else "bias"] = mask
        length = mask.shape[-1]
    if nonpad_kv_seqlen is not None:
        lengths = nonpad_lengths(nonpad_kv_seqlen, batch, total)
        options.update(query_offset=lengths - rows, key_lengths=np.minimum(lengths, length))
    return _Visibility(length, options)


def _working_dtype(
    query: NDArray[Any], value: NDArray[Any], softmax_precision: int | None
) -> np.dtype[Any]:
    """Return the dtype that query, key and value are given to `cpuattn.attention` in."""
    names = {query.dtype.name, value.dtype.name, PRECISIONS.get(softmax_precision or 0)}
    if "float64" in names:
        return np.dtype(np.float64)
    dtype = query.dtype if query.dtype.name == value.dtype.name else np.dtype(np.float32)
    return dtype.newbyteorder("=")


def _output(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    visible: _Visibility,
    scoring: dict[str, Any],
    *,
    merged: bool,
) -> NDArray[Any]:
    """Compute Y, with its heads merged into one axis or not, in the dtype of query."""
    batch, heads, rows, _ = query.shape
    shape = (batch, rows, heads) if merged else (batch, heads, rows)
    result = np.empty((*shape, value.shape[3]), query.dtype)
    cpuattn.attention(
        query,
        key[:, :, : visible.length],
        value[:, :, : visible.length],
        out=result.swapaxes(1, 2) if merged else result,
        **visible.options,
        **scoring,
    )
    return result.reshape(batch, rows, heads * value.shape[3]) if merged else result


def _qk_matmul_output(
    query: NDArray[Any],
    key: NDArray[Any],
    visible: _Visibility,
    scoring: dict[str, Any],
    mode: int,
) -> NDArray[Any]:
    """Compute the fourth output, whose last axis has all keys."""
    if mode < 2:
        return cpuattn.attention_weights(query, key, stage=STAGES[mode], **scoring)
    seen = cpuattn.attention_weights(
        query, key[:, :, : visible.length], stage=STAGES[mode], **visible.options, **scoring
    )
    if visible.length == key.shape[2]:
        return seen
    padded = np.full((*seen.shape[:3], key.shape[2]), -np.inf if mode == 2 else 0, seen.dtype)
    padded[..., : visible.length] = seen
    return padded
