"""Attention over the first tokens and a sliding window: two calls, and their exact merge."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpuattn._arrays import as_array, as_integers, as_output
from cpuattn._attention import attention
from cpuattn._cache_dtypes import check_float
from cpuattn._checks import check_shape
from cpuattn._kv_arrays import KVArrays
from cpuattn._kv_positions import Positions
from cpuattn._merge import merge_attention

Options = dict[str, Any]

_BY_KEY = ("mask", "bias", "key_segments")  # options whose last axis is that of the keys


def attend_sinks_and_window(
    query: NDArray[Any], arrays: KVArrays, positions: Positions, starts: list[int], options: Options
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Attend to the sinks, which no window hides, and to the rest; return output and lse.

    This cannot be one call without a mask of all queries and keys: the rest lies dropped[b] rows
    before its positions and the sinks at theirs, and `causal` and ALiBi count positions.
    """
    held = positions.held()
    rows, dim = max(held), arrays.values.shape[3]
    check_shape("query", query, (len(held), None, None, arrays.keys.shape[3]))
    out = options.get("out")
    if out is not None:
        written = as_output(out, "out")
        check_float("out", written)
        check_shape("out", written, (*query.shape[:3], dim))
    results = []
    for part, limits in _parts(positions, starts, held):
        own = {**options, **_of_keys(options, part, rows), **arrays.scales(part), **limits}
        own["out"] = None
        if query.dtype.type not in (np.float32, np.float64):
            own["out"] = np.empty((*query.shape[:3], dim), np.float32)  # rounded after the merge
        own["return_lse"] = True
        results.append(attention(query, arrays.keys[:, :, part], arrays.values[:, :, part], **own))
    merged, lse = merge_attention([part[0] for part in results], [part[1] for part in results])
    if out is None:
        return merged.astype(query.dtype, copy=False), lse
    written[...] = merged
    return out, lse


def _parts(positions: Positions, starts: list[int], held: list[int]) -> list[tuple[slice, Options]]:
    """Give the rows of the sinks and of the rest, and the options that only they have."""
    first = [min(n, positions.sinks) for n in held]
    rest = [n - f for n, f in zip(held, first, strict=True)]
    offsets = [s - positions.sinks - d for s, d in zip(starts, positions.dropped, strict=True)]
    window = None if positions.window is None else (positions.window - 1, None)
    # Learned sinks are one logit of the whole sum: they go with the first part.
    return [
        (slice(max(first)), {"query_offset": starts, "key_lengths": first}),
        (
            slice(max(first), max(held)),
            {"query_offset": offsets, "key_lengths": rest, "window": window, "sinks": None},
        ),
    ]


def _of_keys(options: Options, part: slice, rows: int) -> Options:
    """Cut the options that have an axis of keys; ValueError if it is not that of `keys`."""
    cut = {}
    for name in _BY_KEY:
        if options.get(name) is None:
            continue
        read = as_integers if name == "key_segments" else as_array
        array: NDArray[Any] = read(options[name], name)
        if array.ndim and array.shape[-1] not in (1, rows):
            raise ValueError(f"{name} must have a last axis of 1 or {rows} keys, got {array.shape}")
        cut[name] = array[..., part] if array.ndim and array.shape[-1] == rows else array
    return cut
