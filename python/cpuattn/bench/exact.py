"""The result of a case in float64, which shares no code with an engine, and the distance to it."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpuattn.bench import masks
from cpuattn.bench.case import Case


def exact(case: Case) -> NDArray[np.float64]:
    """Compute the result on the first set in float64, head by head to save memory."""
    query, key, value = dataclasses.replace(case, sets=1).inputs()[0]
    group = case.heads // case.kv_heads
    visible = masks.visible(case)
    added = masks.added(case, np.dtype(np.float64))
    result = np.empty((case.batch, case.heads, case.queries, case.value_size))
    for b, h in np.ndindex(case.batch, case.heads):
        q, k, v = (
            x.astype(np.float64) for x in (query[b, h], key[b, h // group], value[b, h // group])
        )
        scores = q @ k.T
        scores /= math.sqrt(case.head_dim)
        if case.softcap is not None:
            scores = case.softcap * np.tanh(scores / case.softcap)
        if added is not None:
            scores += added[0, h % added.shape[1]]
        if visible is not None:
            scores[~np.broadcast_to(visible[b % len(visible), 0], scores.shape)] = -np.inf
        sink = masks.sinks(case)[h] if case.sinks else -np.inf
        largest = np.maximum(scores.max(axis=-1, keepdims=True), sink)
        scores -= largest
        np.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True) + np.exp(sink - largest)
        result[b, h] = scores @ v / total
    return result


def distance(case: Case, result: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Give the relative L2 distance of a result, (B, Hq, Lq, Dv), without rows of padding."""
    wide, right = result.astype(np.float64), expected
    if case.packed:
        rows = masks.padding(case).swapaxes(-1, -2)
        wide, right = np.where(rows, wide, 0), np.where(rows, right, 0)
    return float(np.linalg.norm(wide - right) / np.linalg.norm(right))
