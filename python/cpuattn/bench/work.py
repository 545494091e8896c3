"""How much a case asks for: operations and bytes, the same for every engine."""

import math

import numpy as np

from cpuattn.bench import masks
from cpuattn.bench.case import Case


def flops(case: Case) -> int:
    """Count the operations on pairs of a query and a key that it sees.

    Products of 2 D and 2 Dv operations: what the call asks for. An engine that computes more and
    masks it gets no credit for it.
    """
    mask = masks.visible(case)
    shape = case.batch, 1, case.queries, case.keys
    pairs = math.prod(shape) if mask is None else int(np.broadcast_to(mask, shape).sum())
    return 2 * pairs * case.heads * (case.head_dim + case.value_size)


def moved_bytes(case: Case) -> int:
    """Count the bytes of the queries, the result, and the keys and values that any query sees."""
    mask = masks.visible(case)
    keys = case.batch * case.keys
    if mask is not None:
        keys = int(mask.any(axis=-2).sum()) * case.batch // len(mask)
    rows = keys * case.kv_heads + case.batch * case.queries * case.heads
    return rows * (case.head_dim + case.value_size) * np.dtype(case.dtype).itemsize
