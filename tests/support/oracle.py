"""The oracle: attention by its formula, with every option, in any NumPy float dtype.

It shares nothing with the library. Letters: B batch (all leading dimensions), Hq and Hkv heads,
Lq and Lk lengths, D head_dim of query and key, Dv head_dim of value.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Dtype = type[np.floating[Any]]
Window = int | tuple[int | None, int | None] | None


def eps(dtype: Dtype) -> float:
    """Return the distance from 1 to the next number of this dtype."""
    return float(np.finfo(dtype).eps)


class Result(NamedTuple):
    """Every stage of one attention: (..., Hq, Lq, Lk), but out (..., Hq, Lq, Dv) and lse."""

    scores: Array
    softcapped: Array
    masked: Array
    weights: Array
    out: Array
    lse: Array


_Arguments = ParamSpec("_Arguments")
_BYTES_KEPT = 2**28  # of results: all examples of a property test


def _remembered(compute: Callable[_Arguments, Result]) -> Callable[_Arguments, Result]:
    """Give the same result, read-only, to all that ask the same: every ISA asks for each case."""
    kept: dict[bytes, Result] = {}
    size = 0

    @functools.wraps(compute)
    def attend(*arrays: _Arguments.args, **options: _Arguments.kwargs) -> Result:
        nonlocal size
        asked = _digest(*arrays, *sorted(options.items()))
        if asked not in kept:
            kept[asked] = compute(*arrays, **options)
            for stage in kept[asked]:
                stage.setflags(write=False)
                size += stage.nbytes
        result = kept[asked]
        while size > _BYTES_KEPT:
            size -= sum(stage.nbytes for stage in kept.pop(next(iter(kept))))
        return result

    return attend


def _digest(*arguments: object) -> bytes:
    """Tell arguments apart by what they hold."""
    found = hashlib.sha1(usedforsecurity=False)

    def add(argument: object) -> None:
        if isinstance(argument, np.ndarray):
            found.update(f"{argument.dtype.name} {argument.shape} ".encode() + argument.tobytes())
        elif isinstance(argument, tuple | list):
            found.update(f"{type(argument)} {len(argument)} ".encode())
            for part in argument:
                add(part)
        else:
            found.update(f"{type(argument)} {argument!r} ".encode())

    add(arguments)
    return found.digest()


@_remembered
def attend(
    query: Array,
    key: Array,
    value: Array,
    *,
    dtype: Dtype = np.float64,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: bool = False,
    window: Window = None,
    query_offset: ArrayLike | None = None,
    key_lengths: ArrayLike | None = None,
    query_segments: ArrayLike | None = None,
    key_segments: ArrayLike | None = None,
    alibi_slopes: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    softcap: float | None = None,
    scale: float | None = None,
) -> Result:
    """Compute all stages in `dtype`; the arguments mean what they mean in `cpuattn.attention`."""
    rank = max(query.ndim, key.ndim, value.ndim)
    query, key, value = (_at_least_4d(x).astype(dtype) for x in (query, key, value))
    batch = np.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    num_queries, num_keys = query.shape[-2], key.shape[-2]
    query = np.broadcast_to(query, batch + query.shape[-3:])
    group = query.shape[-3] // max(key.shape[-3], 1)
    key, value = (np.repeat(x, group, axis=-3) for x in (key, value))

    lengths = _per_batch(num_keys if key_lengths is None else key_lengths, batch)
    offset = lengths - num_queries if query_offset is None else _per_batch(query_offset, batch)
    position = offset + np.arange(num_queries)[:, None]  # (B..., 1, Lq, 1), in keys
    keys = np.arange(num_keys)

    visible = (keys < lengths) & _in_range(position, keys, causal=causal, window=window)
    if query_segments is not None and key_segments is not None:
        same = np.asarray(query_segments)[..., :, None] == np.asarray(key_segments)[..., None, :]
        visible = visible & same[..., None, :, :]
    if mask is not None:
        visible = visible & mask
    if bias is not None:
        visible = visible & (bias != -np.inf)

    with np.errstate(all="ignore"):
        # No dimensions: every dot product is the empty sum, whatever the scale.
        scale = max(query.shape[-1], 1) ** -0.5 if scale is None else scale
        scores = dtype(scale) * (query @ np.swapaxes(key, -1, -2))
        softcapped = scores
        if softcap is not None:
            softcapped = dtype(softcap) * np.tanh(scores / dtype(softcap))
        logits = softcapped
        if bias is not None:
            logits = logits + np.asarray(bias, dtype)
        if alibi_slopes is not None:
            logits = logits - _per_head(alibi_slopes, dtype) * abs(position - keys).astype(dtype)
        visible = np.broadcast_to(visible, logits.shape)
        masked = np.where(visible, logits, dtype(-np.inf))
        sink = dtype(-np.inf) if sinks is None else _per_head(sinks, dtype)
        weights, lse = _softmax(masked, visible, sink)
        out = _weighted_sum(weights, visible, value)

    def shaped(x: Array, trailing: int) -> Array:
        full = batch + x.shape[-trailing:]
        return np.broadcast_to(x, full).reshape(full[max(4 - rank, 0) :])

    return Result(
        scores=shaped(scores, 3),
        softcapped=shaped(softcapped, 3),
        masked=shaped(masked, 3),
        weights=shaped(weights, 3),
        out=shaped(out, 3),
        lse=shaped(lse, 2),
    )


def _at_least_4d(x: Array) -> Array:
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def _per_batch(x: ArrayLike, batch: tuple[int, ...]) -> Array:
    return np.broadcast_to(np.asarray(x), batch)[..., None, None, None]


def _per_head(x: ArrayLike, dtype: Dtype) -> Array:
    return np.asarray(x, dtype)[..., :, None, None]


def _in_range(position: Array, keys: Array, *, causal: bool, window: Window) -> Array:
    left, right = window if isinstance(window, tuple) else (window, window)
    after = keys - position
    visible = np.ones(after.shape, bool)
    if causal:
        visible &= after <= 0
    if left is not None:
        visible &= -after <= left
    if right is not None:
        visible &= after <= right
    return visible


def _softmax(masked: Array, visible: Array, sink: Array | np.floating[Any]) -> tuple[Array, Array]:
    """Softmax over the visible keys and the sink; a row that sees nothing gets zeros and -inf."""
    largest = np.max(masked, axis=-1, keepdims=True, initial=-np.inf)
    largest = np.maximum(largest, sink)
    base = np.where(np.isneginf(largest), masked.dtype.type(0), largest)
    exponentials = np.where(visible, np.exp(masked - base), masked.dtype.type(0))
    total = exponentials.sum(axis=-1, keepdims=True) + np.exp(sink - base)
    weights = exponentials / np.where(total == 0, masked.dtype.type(1), total)
    return weights, (base + np.log(total))[..., 0]


def _weighted_sum(weights: Array, visible: Array, value: Array) -> Array:
    """weights @ value, where a value that a row cannot see is left out, not multiplied by 0."""
    finite = np.isfinite(value)
    out: Array = weights @ np.where(finite, value, value.dtype.type(0))
    other_axes = (*range(value.ndim - 2), value.ndim - 1)
    for j in np.flatnonzero(~finite.all(axis=other_axes)):
        product = weights[..., :, j, None] * value[..., None, j, :]
        counts = visible[..., :, j, None] & ~finite[..., None, j, :]
        out = out + np.where(counts, product, value.dtype.type(0))
    return out


def assert_accurate(actual: Array, exact: Array, plain: Array, digit: float | None = None) -> None:
    """Assert that `actual` errs at most twice as much as `plain`, NumPy in the same dtype.

    The errors are the largest one and the relative L2 one, both against `exact`, which was
    computed in a wider dtype. NaN and infinities must stand exactly where `exact` has them.

    The floor is for results so small that NumPy is exact by luck: scores, weights and sums are
    each rounded at least once in any order of evaluation, so 4 units in the last place of the
    largest result are within reach of a correct implementation and far below those of a wrong one.
    `digit`: such a unit, where it is not that of `plain`'s dtype.
    """
    assert actual.dtype == plain.dtype
    assert actual.shape == exact.shape
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(exact), "NaN positions")
    finite = np.isfinite(exact)
    same_infinities = np.where(np.isnan(exact) | finite, 0, exact)
    np.testing.assert_array_equal(
        np.where(np.isinf(actual), actual, 0), same_infinities, "infinities"
    )
    if not finite.any():
        return
    truth = exact[finite]
    error = abs(actual[finite] - truth)
    allowed = abs(plain[finite] - truth)
    floor = 4 * (digit or eps(plain.dtype.type))
    assert error.max() <= 2 * allowed.max() + floor * abs(truth).max()
    norm = np.linalg.norm
    assert norm(error) <= 2 * norm(allowed) + floor * norm(truth)
