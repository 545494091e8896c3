"""Join attention results that were computed over different keys."""

from __future__ import annotations  # help() then shows ArrayLike, and not what it stands for

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._arrays import as_array


def merge_attention(
    outputs: Sequence[ArrayLike] | NDArray[Any], lses: Sequence[ArrayLike] | NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Merge results of the same queries over disjoint sets of keys, as if computed in one call.

    Part p averaged its own values with weights that sum to 1, and exp(lse_p) is the sum that it
    divided by. The whole is the average of the parts, weighted with their share of the sums::

        lse = log Σ exp(lse_p)          out = Σ exp(lse_p - lse) · output_p

    Parameters
    ----------
    outputs : sequence of (..., L, Dv) arrays, or one stacked (P, ..., L, Dv) array
        What `attention` returned for each part; float32, float16, bfloat16 or float64, all alike.
        They are merged in float64. Narrow ones were rounded once already, and are so again: pass
        `attention` an ``out=`` of float32 for each part to have the digits of a single call.
    lses : sequence of (..., L) arrays, or one stacked (P, ..., L) array
        What `attention(..., return_lse=True)` returned beside it: natural logarithms, float64 if
        the outputs are, else float32. -inf marks a row that saw no key: it adds nothing, whatever
        its output holds.

    Returns
    -------
    out : ndarray
        (..., L, Dv), of the dtype of the parts; zeros where no part saw a key.
    lse : ndarray
        (..., L); -inf where no part saw a key.

    Raises
    ------
    TypeError
        If the arrays are not of these dtypes.
    ValueError
        If there is no part, not one lse per output, or shapes differ.

    Notes
    -----
    Parts are added in the order given, so the same parts give the same bits. NaN propagates.
    Attention sinks belong to the sum once: pass them in the call for one part only.

    Source: the online softmax of Milakov and Gimelshein, 2018, and the split-key form of
    "Flash-Decoding for long-context inference" (Dao et al., 2023).

    Examples
    --------
    >>> import numpy as np
    >>> from cpuattn import merge_attention
    >>> first, second = np.array([[0.0]]), np.array([[4.0]])  # averages over 1 and 3 equal keys
    >>> out, lse = merge_attention([first, second], [np.log([1.0]), np.log([3.0])])
    >>> out, np.exp(lse).round(12)
    (array([[3.]]), array([4.]))
    """
    parts = [as_array(x, f"outputs[{i}]") for i, x in enumerate(outputs)]
    sums = [as_array(x, f"lses[{i}]") for i, x in enumerate(lses)]
    _check(parts, sums)
    stacked = np.stack(sums).astype(np.float64)
    empty = np.isneginf(stacked)
    # log 0 is the -inf of an empty row, whose shares 0 / 0 are skipped; inf - inf is an honest NaN.
    with np.errstate(invalid="ignore", divide="ignore"):
        largest = stacked.max(axis=0)
        largest[np.isneginf(largest)] = 0
        shares = np.exp(stacked - largest)
        total = np.zeros_like(largest)
        for share in shares:  # sum(axis=0) would add in an order that depends on the shape
            total += share
        lse = largest + np.log(total)
        shares /= total
        # In float64 also for narrower parts: their shares may be below the smallest float32.
        out = np.zeros(parts[0].shape)
        for part, share, skip in zip(parts, shares, empty, strict=True):
            product = share[..., None] * part.astype(np.float64, copy=False)
            out += np.where(skip[..., None], 0, product)
    return out.astype(parts[0].dtype, copy=False), lse.astype(sums[0].dtype)


def _check(outputs: list[NDArray[Any]], lses: list[NDArray[Any]]) -> None:
    if not outputs:
        raise ValueError("outputs must hold at least one part, got none")
    if len(outputs) != len(lses):
        raise ValueError(f"lses must hold one array per output: {len(outputs)}, got {len(lses)}")
    dtype, shape = outputs[0].dtype, outputs[0].shape
    if dtype.name not in ("float32", "float16", "bfloat16", "float64"):
        raise TypeError(f"outputs must be float32, float16, bfloat16 or float64, got {dtype}")
    wide = np.float64 if dtype.type is np.float64 else np.float32  # in any order of bytes
    if len(shape) < 2:
        raise ValueError(f"outputs[0] must have shape (..., L, Dv), got {shape}")
    for i, (output, lse) in enumerate(zip(outputs, lses, strict=True)):
        if output.dtype != dtype or lse.dtype.type is not wide:
            raise TypeError(
                f"outputs must all be {dtype} like outputs[0] and lses {wide.__name__}, "
                f"got {output.dtype} and {lse.dtype} in part {i}"
            )
        if output.shape != shape:
            raise ValueError(f"outputs[{i}] must be {shape} like outputs[0], got {output.shape}")
        if lse.shape != shape[:-1]:
            raise ValueError(f"lses[{i}] must be {shape[:-1]}, got {lse.shape}")
