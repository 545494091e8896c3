"""Wrong calls of attention and of the functions that take its arguments."""

from typing import Any

import numpy as np

import cpuattn
from oracle import Array
from wrong_calls import GOOD, Arguments, Calls, Wrong, calls, each, integers, ones


def _read_only(x: Array) -> Array:
    x.flags.writeable = False
    return x


INT8: Arguments = {
    "key": ones(2, 3, 5, 7, dtype=np.int8),
    "value": ones(2, 3, 5, 8, dtype=np.int8),
    "key_scale": ones(2, 3, 5),
    "value_scale": ones(2, 3, 5),
}
PAGES: Arguments = {"block_table": [[0], [1]], "key_lengths": [5, 5]}
PACKED: Arguments = {
    "query": ones(4, 6, 7),
    "key": ones(5, 3, 7),
    "value": ones(5, 3, 8),
    "cu_seqlens_q": [0, 1, 4],
    "cu_seqlens_k": [0, 2, 5],
}
PACKED_PAGES: Arguments = {
    "key": ones(4, 3, 3, 7),
    "value": ones(4, 3, 3, 8),
    "block_table": [[0, 1], [2, 3]],
    "key_lengths": [6, 4],
    "cu_seqlens_k": None,
}

NO_ARRAYS: list[Any] = [None, "text", [1.0], 3, np.ma.masked_array(ones(2, 3, 5, 7))]
NO_FLOATS = [
    ones(2, 3, 5, 7, dtype=d) for d in ("int32", "uint8", "bool", "complex64", "object", "int8")
]
PER_BATCH: list[Any] = [0.5, [0.0, 1.0], [1, 2, 3], ones(2, dtype=bool), [[1, 2]], "1", None]

# What is wrong for one option of attention, whatever the other arguments.
OPTIONS: Wrong = {
    "mask": [
        *(ones(*shape, dtype=bool) for shape in ((4, 6), (3, 5), (2, 5), (2, 4, 5), (3, 1, 1, 5))),
        *(ones(1, 2, 6, 4, 5, dtype=bool), ones(4, 5), ones(4, 5, dtype=np.uint8), True, "m"),
    ],
    "bias": [
        *(ones(*shape) for shape in ((4, 6), (3, 4, 5), (2, 5), (3, 1, 1, 5), (1, 2, 6, 4, 5))),
        *(ones(4, 5, dtype=bool), integers(4, 5), ones(4, 5, dtype="complex64"), 1.0, [1.0]),
    ],
    "causal": [1, None, "yes", ones(1)],
    "window": [-1, (-2, 3), (3, -2), (1, 2, 3), (1,), (), 1.5, (1.5, 2), "wide", True, 2**70],
    "query_offset": [0.5, [0.0, 1.0], [1, 2, 3], ones(2, dtype=bool), [[1], [2], [3]]],
    "key_lengths": [[5, 6], [-1, 5], 6, -1, [1, 2, 3], [1.0, 2.0], ones(2, dtype=bool), "5"],
    "query_segments": [integers(2, 4)],
    "key_segments": [integers(2, 5)],
    "alibi_slopes": [[1.0, 2.0], ones(3, 6), ones(1, 1, 1, 2, 6), 1.0, [1j] * 6, ["a"] * 6],
    "sinks": [[1.0] * 3, ones(2, 6), 1.0, [1j] * 6, ["a"] * 6],
    "softcap": [0.0, -2.5, np.nan, np.inf, "3", 1j, ones(2), True],
    "scale": [np.nan, np.inf, -np.inf, "3", 1j, ones(2), 1e300],
    "key_scale": [ones(2, 3, 5), 1.0],
    "value_scale": [ones(2, 3, 5), 1.0],
    "block_table": [integers(2, 1), ones(2, 1)],
    "num_threads": [0, -3, 1.5, "2", True, 2**70],
}
SEGMENTS: list[Arguments] = [
    {"query_segments": q, "key_segments": k}
    for q, k in (
        (integers(2, 5), integers(2, 5)),
        (integers(2, 4), integers(3, 5)),
        (integers(3, 2, 4), integers(2, 5)),
        (ones(2, 4), integers(2, 5)),
        (integers(2, 4), ones(2, 5)),
        (integers(), integers()),
    )
]
OUTPUTS: Wrong = {
    "out": [
        *(ones(2, 6, 4, 6), ones(6, 4, 8), ones(1, 2, 6, 4, 8), _read_only(ones(2, 6, 4, 8))),
        *(ones(2, 6, 4, 8, dtype=d) for d in ("float64", "int8", ">f4")),
        *(ones(2, 6, 4, 8).tolist(), 1, np.ma.masked_array(ones(2, 6, 4, 8))),
        *(np.broadcast_to(ones(1), (2, 6, 4, 8)), GOOD["value"][:1, :1, :1, :1]),
    ],
}
INPUTS: Wrong = {
    "query": [*(ones(*s) for s in ((7,), (), (2, 4, 4, 7), (2, 2, 4, 7), (2, 4, 6, 7)))],
    "key": [*(ones(*s) for s in ((5,), (2, 3, 5, 6), (3, 3, 5, 7), (2, 0, 5, 7)))],
    "value": [*(ones(*s) for s in ((5,), (2, 3, 6, 8), (2, 2, 5, 8), (3, 3, 5, 8)))],
}
CACHES: list[Arguments] = [
    INT8 | {"key_scale": None},
    INT8 | {"value_scale": None},
    INT8 | {"key_scale": ones(2, 3, 6)},
    INT8 | {"value_scale": ones(5, 3)},
    INT8 | {"key_scale": ones(2, 3, 5, dtype=np.float64)},
    INT8 | {"value": GOOD["value"]},
    INT8 | {"query": ones(2, 6, 4, 7, dtype=np.float64)},
    INT8 | {"query": ones(2, 6, 4, 7, dtype=np.int8)},
    *(PAGES | {"block_table": t} for t in ([[0], [2]], [[-1], [0]], [[0]] * 3, 0, [[0.0], [1]])),
    *(PAGES | {"key_lengths": n} for n in ([5, 6], [-1, 5], [1, 2, 3], None)),
    *(PAGES | {"key": ones(*s)} for s in ((3, 5, 7), (2, 2, 5, 7), (2, 3, 4, 7), (2, 3, 0, 7))),
    PAGES | {"value": ones(2, 3, 6, 8)},
]
SEQUENCES: list[Arguments] = [
    *({"query": ones(*s)} for s in ((6, 7), (4, 5, 7), (4, 6, 6), (5, 6, 7))),
    *({"key": ones(*s)} for s in ((5, 7), (6, 3, 7), (5, 2, 7))),
    *({"value": ones(*s)} for s in ((5, 8), (4, 3, 8), (5, 2, 8))),
    *({"cu_seqlens_q": x} for x in ([0, 3], [1, 2, 4], [0, 5, 4], None, [[0, 4]], [0.0, 4.0])),
    *({"cu_seqlens_k": x} for x in ([0, 6, 5], [0, 5], [[0, 2, 5]], [0, 2, 4], [], None)),
    {"key_lengths": [3, 3]},
    {"mask": ones(2, 6, 4, 5, dtype=bool)},
    {"out": ones(6, 4, 8)},
    {"block_table": [[0], [1]]},
    {"cu_seqlens_q": None, "cu_seqlens_k": None},
    *(PACKED_PAGES | {"key_lengths": n} for n in (None, [7, 1], [1, 2, 3], [-1, 1])),
    *(PACKED_PAGES | {"block_table": t} for t in ([[0, 1]] * 3, [[0, 1], [0, 4]], 3)),
    PACKED_PAGES | {"key": ones(5, 3, 7)},
    PACKED_PAGES | {"cu_seqlens_q": [0, 3]},
]


def wrong_calls() -> Calls:
    """Give all wrong calls of this module."""
    inputs = [*each(INPUTS), *each(dict.fromkeys(INPUTS, NO_ARRAYS + NO_FLOATS))]
    inputs += [{name: GOOD[name].astype(np.float64)} for name in INPUTS]
    inputs += [{name: GOOD[name].astype(np.float16)} for name in INPUTS]
    options = [*each(OPTIONS), *SEGMENTS]
    last = [*each(OUTPUTS), *CACHES, {"return_lse": 1}, {"return_lse": None}]
    yield from calls(cpuattn.attention, GOOD, inputs + options + last)
    for function in (cpuattn.attention_weights, cpuattn.explain):
        own: list[Arguments] = [{"out": ones(2, 6, 4, 6)}, {"out": [1.0]}]
        good = GOOD
        if function is cpuattn.attention_weights:
            good = {name: x for name, x in GOOD.items() if name != "value"}
            own += [{"stage": stage} for stage in ("weight", None, 3, ["scores"])]
        known = [a for a in inputs + options if not {"value", "value_scale"} & a.keys()]
        yield from calls(function, good, known[::4] + own)
    yield from calls(cpuattn.attention_varlen, PACKED, SEQUENCES)
    yield from calls(cpuattn.explain_varlen, PACKED, SEQUENCES[::3])
