"""How much a case asks for: operations and bytes, the same for every engine."""

import math

import numpy as np

from cpuattn.bench import masks
from cpuattn.bench.case import Case
from cpuattn.bench.dtypes import numpy_dtype


def flops(case: Case) -> int:
    """Count the operations on pairs of a query and a key that it sees.

    Products of 2 D and 2 Dv operations: what the call asks for. An engine that computes more and
    masks it gets no credit for it, nor for queries that only pad a sequence.
    """
    operations = 2 * case.heads * (case.head_dim + case.value_size)
    if case.packed:
        return operations * sum(length**2 for length in case.key_lengths or ())
    mask = masks.visible(case)
    shape = case.batch, 1, case.queries, case.keys
    pairs = math.prod(shape) if mask is None else int(np.broadcast_to(mask, shape).sum())
    return operations * pairs


def moved_bytes(case: Case) -> int:
    """Count the bytes of the queries, the result, and the keys and values that any query sees.

    A scale of int8 is one float32 number for a key, and one for a value.
    """
    mask = masks.visible(case)
    keys = case.batch * case.keys
    if mask is not None:
        keys = int(mask.any(axis=-2).sum()) * case.batch // len(mask)
    queries = sum(case.key_lengths or ()) if case.packed else case.batch * case.queries
    width = case.head_dim + case.value_size
    stored = width * numpy_dtype(case.dtype).itemsize + (2 * 4 if case.dtype == "int8" else 0)
    new = width * case.query_dtype.itemsize
    return keys * case.kv_heads * stored + queries * case.heads * new
