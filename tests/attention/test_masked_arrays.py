"""Masked arrays are refused wherever an array is taken: their mask would be ignored."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cpuattn
from cpuattn import KVCache, MultiHeadAttention, PagedKVCache
from oracle import Array


def masked(x: Any) -> Any:
    """Mask one element, whose data would do as it is."""
    array: Any = np.ma.array(x)
    array[(0,) * array.ndim] = np.ma.masked
    return array


def ones(*shape: int, dtype: Any = np.float32) -> Array:
    return np.ones(shape, dtype)


X = ones(1, 2, 3, 4)
PACKED = X[0]
INT8 = {"key": ones(1, 2, 3, 4, dtype=np.int8), "value": ones(1, 2, 3, 4, dtype=np.int8)}
SCALES = {"key_scale": ones(1, 2, 3), "value_scale": ones(1, 2, 3)}
PAGED = {"block_table": [[0]], "key_lengths": [3]}
SEGMENTS = {"query_segments": [[0, 0, 1]], "key_segments": [[0, 0, 1]]}

# Each argument of `attention`, and what must be given with it.
OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "query": (X, {}),
    "key": (X, {}),
    "value": (X, {}),
    "mask": (ones(3, 3, dtype=bool), {}),
    "bias": (ones(3, 3), {}),
    "query_offset": ([0], {}),
    "key_lengths": ([2], {}),
    "query_segments": ([[0, 0, 1]], SEGMENTS),
    "key_segments": ([[0, 0, 1]], SEGMENTS),
    "alibi_slopes": ([1.0, 2.0], {}),
    "sinks": ([1.0, 2.0], {}),
    "key_scale": (ones(1, 2, 3), INT8 | SCALES),
    "value_scale": (ones(1, 2, 3), INT8 | SCALES),
    "block_table": ([[0]], PAGED),
    "window": (1, {}),
    "scale": (1.0, {}),
    "softcap": (1.0, {}),
    "num_threads": (1, {}),
    "out": (X.copy(), {}),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("function", [cpuattn.attention, cpuattn.explain])
def test_attention(function: Callable[..., Any], name: str) -> None:
    good, others = OPTIONS[name]
    arguments = {"query": X, "key": X, "value": X} | others
    function(**(arguments | {name: good}))
    bad = masked(good)
    # The masked element of a list is np.ma.masked, or in a row that is a masked array.
    for argument in [bad, list(bad)] if isinstance(good, list) else [bad]:
        with pytest.raises(TypeError, match=f"^{name} is a masked array"):
            function(**(arguments | {name: argument}))


def test_a_mask_of_nothing_is_refused_too() -> None:
    with pytest.raises(TypeError, match="key_lengths is a masked array"):
        cpuattn.attention(X, X, X, key_lengths=np.ma.array([2]))


class Variable:
    """Gives a masked array, as variables of netCDF4 do."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return masked(X)


def test_an_object_that_gives_a_masked_array() -> None:
    with pytest.raises(TypeError, match="key is a masked array"):
        cpuattn.attention(X, Variable(), X)


def cache(**options: Any) -> KVCache:
    filled = KVCache(1, 2, 4, **options)
    filled.append(X, X)
    return filled


def pages() -> PagedKVCache:
    filled = PagedKVCache(4, 2, 2, 4)
    filled.append([filled.add()], X, X)
    return filled


def layer() -> MultiHeadAttention:
    return MultiHeadAttention(8, 2, rng=0)


TABLE = ones(9, 2)
INPUT = ones(1, 3, 8)
STATE = layer().state_dict()
CALLS: list[tuple[str, Callable[[], Any]]] = [
    ("query", lambda: cpuattn.attention_weights(masked(X), X)),
    ("sinks", lambda: cpuattn.attention_weights(X, X, sinks=masked([1.0, 2.0]))),
    (
        "cu_seqlens_q",
        lambda: cpuattn.attention_varlen(PACKED, PACKED, PACKED, masked([0, 2]), [0, 2]),
    ),
    (
        "cu_seqlens_k",
        lambda: cpuattn.attention_varlen(PACKED, PACKED, PACKED, [0, 2], masked([0, 2])),
    ),
    (
        "cu_seqlens_k",
        lambda: cpuattn.explain_varlen(PACKED, PACKED, PACKED, [0, 2], masked([0, 2])),
    ),
    (r"outputs\[0\]", lambda: cpuattn.merge_attention(masked([X, X]), ones(2, 1, 2, 3))),
    (r"lses\[1\]", lambda: cpuattn.merge_attention([X, X], [X[..., 0], masked(X[..., 0])])),
    ("x", lambda: cpuattn.rotary_embedding(masked(X), TABLE, TABLE)),
    ("cos", lambda: cpuattn.rotary_embedding(X, masked(TABLE), TABLE)),
    ("sin", lambda: cpuattn.rotary_embedding(X, TABLE, masked(TABLE))),
    (
        "positions",
        lambda: cpuattn.rotary_embedding(X, TABLE, TABLE, positions=masked([0, 1, 2])),
    ),
    ("x", lambda: cpuattn.quantize_int8(masked(X))),
    ("q", lambda: cpuattn.dequantize_int8(masked(X.astype(np.int8)), X[..., 0])),
    ("scale", lambda: cpuattn.dequantize_int8(X.astype(np.int8), masked(X[..., 0]))),
    ("batch", lambda: KVCache(masked(1), 2, 4)),
    ("key", lambda: cache().append(masked(X), X)),
    ("value", lambda: cache().append(X, masked(X))),
    ("lengths", lambda: cache().append(X, X, lengths=masked([2]))),
    ("query", lambda: cache().attend(masked(X))),
    ("query_offset", lambda: cache().attend(X, query_offset=masked([1]))),
    ("sinks", lambda: cache().attend(X, sinks=masked([1.0, 2.0]))),
    ("n", lambda: cache().truncate(masked([1]))),
    ("batch_indices", lambda: cache().reorder(masked([0]))),
    (
        "key_segments",
        lambda: cache(window=3, sink_tokens=1).attend(
            X, query_segments=[[0, 0, 0]], key_segments=masked([[0, 0, 0]])
        ),
    ),
    ("out", lambda: cache(window=3, sink_tokens=1).attend(X, out=masked(X))),
    ("seq_ids", lambda: pages().append(masked([0]), X, X)),
    ("lengths", lambda: pages().append([0], X, X, lengths=masked([2]))),
    ("key", lambda: pages().append([0], masked(X), X)),
    ("seq_ids", lambda: pages().attend(X, masked([0]))),
    ("seq_ids", lambda: pages().block_table(masked([0]))),
    ("x", lambda: layer()(masked(INPUT))),
    ("context", lambda: layer()(INPUT, masked(INPUT))),
    ("cos", lambda: layer()(INPUT, rope=(masked(TABLE), TABLE))),
    ("key_lengths", lambda: layer()(INPUT, key_lengths=masked([2]))),
    ("key_lengths", lambda: layer()(INPUT, cache=KVCache(1, 2, 4), key_lengths=masked([2]))),
    ("seq_ids", lambda: layer()(INPUT, cache=pages(), seq_ids=masked([0]))),
    (
        "in_proj_weight",
        lambda: layer().load_state_dict(
            STATE | {"in_proj_weight": masked(STATE["in_proj_weight"])}
        ),
    ),
]


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[f"{i}-{c[0]}" for i, c in enumerate(CALLS)])
def test_other_functions(name: str, call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=rf"^{name} is a masked array"):
        call()
