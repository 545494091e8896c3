"""Attention over the first tokens and a sliding window: two calls, and their exact merge."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpuattn._arrays import as_array, as_integers, as_output
from cpuattn._attention import attention, explain
from cpuattn._merge import merge_attention
from cpuattn.cache.kv_state import Counts, KVState

Options = dict[str, Any]

_BY_KEY = ("mask", "bias", "key_segments")  # options whose last axis is the key axis


def attend_sinks_and_window(
    query: NDArray[Any], state: KVState, starts: Counts, options: Options
) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
    """Attend to the sinks, which no window hides, and to the rest.

    This cannot be one call without a mask of all queries and keys: the rest lies dropped[b] rows
    before its positions and the sinks at theirs, and `causal` and ALiBi count positions.
    """
    arrays, held = state.arrays, state.held()
    rows = max(held)
    options = dict(options)
    return_lse = options.pop("return_lse", False)
    if not isinstance(return_lse, bool | np.bool_):
        raise TypeError(
            f"return_lse is of type {type(return_lse).__name__}; it must be True or False"
        )
    # The checks of one call over all keys, `out` included, which neither part sees.
    whole = {**options, **arrays.scales(slice(rows)), "query_offset": starts, "key_lengths": held}
    explain(query, arrays.keys[:, :, :rows], arrays.values[:, :, :rows], **whole)
    out, dtype = options.pop("out", None), query.dtype.newbyteorder("=")
    results = []
    for part, limits in _parts(state, starts, held):
        own = {**options, **_of_keys(options, part, rows), **arrays.scales(part), **limits}
        results.append(_exact(query, arrays.keys[:, :, part], arrays.values[:, :, part], own))
    merged, lse = merge_attention([part[0] for part in results], [part[1] for part in results])
    with np.errstate(over="ignore"):  # attention says nothing either
        if out is None:
            out = merged.astype(dtype, copy=False)
        else:
            as_output(out, "out")[...] = merged
    return (out, lse) if return_lse else out


def _exact(
    query: NDArray[Any], key: NDArray[Any], value: NDArray[Any], options: Options
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Attend, with a result that is not rounded to 16 bits: that comes after the merge."""
    if query.dtype.itemsize == 2:
        leading = np.broadcast_shapes(query.shape[:-3], key.shape[:-3])
        shape = (*leading, *query.shape[-3:-1], value.shape[-1])
        options["out"] = np.empty(shape, np.float32)
    result: tuple[NDArray[Any], NDArray[Any]] = attention(
        query, key, value, return_lse=True, **options
    )
    return result


def _parts(state: KVState, starts: Counts, held: Counts) -> list[tuple[slice, Options]]:
    """Give the rows of the sinks and of the rest, and the options that only they have."""
    window, sinks, _ = state.limits
    first = [min(n, sinks) for n in held]
    rest = [n - f for n, f in zip(held, first, strict=True)]
    offsets = [start - sinks - d for start, d in zip(starts, state.dropped, strict=True)]
    limits = None if window is None else (window - 1, None)
    # Learned sinks are one logit of the whole sum: they go with the first part.
    return [
        (slice(max(first)), {"query_offset": starts, "key_lengths": first}),
        (
            slice(max(first), max(held)),
            {"query_offset": offsets, "key_lengths": rest, "window": limits, "sinks": None},
        ),
    ]


def _of_keys(options: Options, part: slice, rows: int) -> Options:
    """Cut the options that have an axis of keys."""
    cut = {}
    for name in _BY_KEY:
        if options.get(name) is None:
            continue
        read = as_integers if name == "key_segments" else as_array
        array: NDArray[Any] = read(options[name], name)
        cut[name] = array[..., part] if array.ndim and array.shape[-1] == rows else array
    return cut
