"""Bad arguments: an error of the right kind that says which, what came and what is allowed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cpuattn
from oracle import Array

Arguments = dict[str, Any]


def good() -> Arguments:
    """Sizes that no two arguments share by accident: B 2, Hq 6, Hkv 3, Lq 4, Lk 5, D 7, Dv 8."""
    return {
        "query": np.ones((2, 6, 4, 7), np.float32),
        "key": np.ones((2, 3, 5, 7), np.float32),
        "value": np.ones((2, 3, 5, 8), np.float32),
    }


def ones(*size: int, dtype: Any = np.float32) -> Array:
    return np.ones(size, dtype)


QUANTISED: Arguments = {
    "key": ones(2, 3, 5, 7, dtype=np.int8),
    "value": ones(2, 3, 5, 8, dtype=np.int8),
    "key_scale": ones(2, 3, 5),
    "value_scale": ones(2, 3, 5),
}
# The key and value of good() as two pages.
PAGED: Arguments = {"block_table": [[0], [1]], "key_lengths": [5, 5]}


def read_only(x: Array) -> Array:
    x.flags.writeable = False
    return x


# name, bad arguments, and what the message must hold beside the name: what came, what may come.
VALUES: list[tuple[str, Arguments, list[str]]] = [
    # Ranks and sizes
    ("query", {"query": ones(7)}, ["(7,)", "2"]),
    ("query", {"query": ones()}, ["()", "2"]),
    ("key", {"key": ones(5)}, ["(5,)", "2"]),
    ("value", {"value": ones(5)}, ["(5,)", "2"]),
    ("key", {"key": ones(2, 3, 5, 6)}, ["(2, 6, 4, 7)", "(2, 3, 5, 6)"]),
    ("value", {"value": ones(2, 3, 6, 8)}, ["(2, 3, 5, 7)", "(2, 3, 6, 8)"]),
    ("value", {"value": ones(2, 2, 5, 8)}, ["(2, 3, 5, 7)", "(2, 2, 5, 8)"]),
    ("key", {"key": ones(3, 3, 5, 7), "value": ones(3, 3, 5, 8)}, ["(2, 6, 4, 7)", "(3, 3, 5, 7)"]),
    ("value", {"value": ones(3, 3, 5, 8)}, ["(2, 3, 5, 7)", "(3, 3, 5, 8)"]),
    ("query", {"query": ones(2, 4, 4, 7)}, ["4", "3"]),
    ("query", {"query": ones(2, 2, 4, 7)}, ["2", "3"]),
    # Masks and biases
    ("mask", {"mask": ones(4, 6, dtype=bool)}, ["(4, 6)", "(2, 6, 4, 5)"]),
    ("mask", {"mask": ones(3, 5, dtype=bool)}, ["(3, 5)", "(2, 6, 4, 5)"]),
    ("mask", {"mask": ones(1, 2, 6, 4, 5, dtype=bool)}, ["(1, 2, 6, 4, 5)", "(2, 6, 4, 5)"]),
    ("bias", {"bias": ones(3, 4, 5)}, ["(3, 4, 5)", "(2, 6, 4, 5)"]),
    ("bias", {"bias": ones(3, 1, 1, 5)}, ["(3, 1, 1, 5)", "(2, 6, 4, 5)"]),
    ("mask", {"mask": ones(2, 5, dtype=bool)}, ["(2, 5)", "x[:, None, None, :]"]),
    ("bias", {"bias": ones(2, 5)}, ["(2, 5)", "x[:, None, None, :]"]),
    ("mask", {"mask": ones(2, 4, 5, dtype=bool)}, ["(2, 4, 5)", "x[:, None]"]),
    # (B, L, H, D), where the lengths make it evident
    (
        "mask",
        {
            "query": ones(2, 6, 4, 7),
            "key": ones(2, 6, 2, 7),
            "value": ones(2, 6, 2, 8),
            "mask": ones(6, 6, dtype=bool),
        },
        ["(6, 6)", "x.swapaxes(1, 2)"],
    ),
    (
        "query",
        {"query": ones(2, 4, 6, 7), "key": ones(2, 5, 3, 7), "value": ones(2, 5, 3, 8)},
        ["(2, 4, 6, 7)", "(2, 5, 3, 7)", "x.swapaxes(1, 2)"],
    ),
    # Windows and offsets
    ("window", {"window": -1}, ["-1"]),
    ("window", {"window": (-2, 3)}, ["-2"]),
    ("window", {"window": (3, -2)}, ["-2"]),
    ("window", {"window": (1, 2, 3)}, ["3", "right"]),
    ("window", {"window": (1,)}, ["1", "right"]),
    ("window", {"window": ()}, ["0", "right"]),
    ("query_offset", {"query_offset": [1, 2, 3]}, ["(3,)", "(2,)"]),
    # Lengths and segments
    ("key_lengths", {"key_lengths": [5, 6]}, ["6", "5"]),
    ("key_lengths", {"key_lengths": [-1, 5]}, ["-1", "5"]),
    ("key_lengths", {"key_lengths": [1, 2, 3]}, ["(3,)", "(2,)"]),
    ("key_lengths", {"key_lengths": 6}, ["6", "5"]),
    ("key_segments", {"query_segments": ones(2, 4, dtype=int)}, ["query_segments"]),
    ("query_segments", {"key_segments": ones(2, 5, dtype=int)}, ["key_segments"]),
    (
        "query_segments",
        {"query_segments": ones(2, 5, dtype=int), "key_segments": ones(2, 5, dtype=int)},
        ["(2, 5)", "4"],
    ),
    (
        "key_segments",
        {"query_segments": ones(2, 4, dtype=int), "key_segments": ones(3, 5, dtype=int)},
        ["(3, 5)", "2"],
    ),
    # Scores
    ("alibi_slopes", {"alibi_slopes": [1.0, 2.0]}, ["(2,)", "6"]),
    ("alibi_slopes", {"alibi_slopes": ones(3, 6)}, ["(3, 6)", "6"]),
    ("sinks", {"sinks": [1.0] * 3}, ["(3,)", "6"]),
    ("softcap", {"softcap": 0.0}, ["0"]),
    ("softcap", {"softcap": -2.5}, ["-2.5"]),
    ("softcap", {"softcap": np.nan}, ["nan"]),
    ("softcap", {"softcap": np.inf}, ["inf"]),
    ("scale", {"scale": np.nan}, ["nan"]),
    ("scale", {"scale": np.inf}, ["inf"]),
    ("scale", {"scale": -np.inf}, ["-inf"]),
    # Quantised and paged caches
    ("key_scale", {"key_scale": ones(2, 3, 5)}, ["float32", "int8"]),
    ("value_scale", {"value_scale": ones(2, 3, 5)}, ["float32", "int8"]),
    ("key_scale", QUANTISED | {"key_scale": None}, ["missing", "int8"]),
    ("value_scale", QUANTISED | {"value_scale": None}, ["missing", "int8"]),
    ("key_scale", QUANTISED | {"key_scale": ones(2, 3, 6)}, ["(2, 3, 6)", "(2, 3, 5)"]),
    ("value_scale", QUANTISED | {"value_scale": ones(5, 3)}, ["(5, 3)", "(2, 3, 5)"]),
    ("key_lengths", {"block_table": ones(2, 1, dtype=int)}, ["missing", "block_table"]),
    ("block_table", PAGED | {"block_table": [[0], [2]]}, ["2", "[0, 2)"]),
    ("block_table", PAGED | {"block_table": [[-1], [0]]}, ["-1", "[0, 2)"]),
    ("block_table", PAGED | {"block_table": ones(3, 1, dtype=int)}, ["(3, 1)", "(2, 1)"]),
    ("block_table", PAGED | {"block_table": 0}, ["()"]),
    ("key_lengths", PAGED | {"key_lengths": [5, 6]}, ["6", "5"]),
    ("key", PAGED | {"key": ones(3, 5, 7)}, ["(3, 5, 7)", "page_size"]),
    ("value", PAGED | {"value": ones(2, 3, 6, 8)}, ["page_size", "(2, 3, 5, 7)"]),
    # Output and threads
    ("out", {"out": ones(2, 6, 4, 7)}, ["(2, 6, 4, 7)", "(2, 6, 4, 8)"]),
    ("out", {"out": ones(6, 4, 8)}, ["(6, 4, 8)", "(2, 6, 4, 8)"]),
    ("out", {"out": read_only(ones(2, 6, 4, 8))}, ["read-only"]),
    ("num_threads", {"num_threads": 0}, ["0"]),
    ("num_threads", {"num_threads": -3}, ["-3"]),
]

TYPES: list[tuple[str, Arguments, list[str]]] = [
    *(
        (name, {name: good()[name].astype(dtype)}, [np.dtype(dtype).name, "float32"])
        for name in ("query", "key", "value")
        for dtype in ("int32", "int64", "uint8", "bool", "complex64", "object", "longdouble")
        if dtype != "longdouble" or np.dtype(dtype) != np.float64
    ),
    *((name, {name: good()[name].tolist()}, ["list"]) for name in ("query", "key", "value")),
    ("query", {"query": None}, ["None"]),
    ("query", {"query": "text"}, ["str"]),
    ("key", {"key": good()["key"].astype(np.float64)}, ["float64", "float32"]),
    ("value", {"value": good()["value"].astype(np.float16)}, ["float16", "float32"]),
    ("value", {"value": good()["value"].astype(np.int8)}, ["int8", "float32"]),
    ("key_scale", {"key_scale": ones(2, 3, 5, dtype=np.float64)}, ["float64", "float32"]),
    ("block_table", {"block_table": ones(2, 1)}, ["float32", "integers"]),
    ("value", {"value": good()["value"].astype(np.float64)}, ["float64", "float32"]),
    ("query", {"query": good()["query"].astype(np.float64)}, ["float64", "float32"]),
    ("mask", {"mask": ones(4, 5)}, ["float32", "bool"]),
    ("mask", {"mask": ones(4, 5, dtype=np.uint8)}, ["uint8", "bool"]),
    ("bias", {"bias": ones(4, 5, dtype=bool)}, ["bool", "float32"]),
    ("bias", {"bias": ones(4, 5, dtype=int)}, ["int64", "float32"]),
    ("window", {"window": 1.5}, ["float", "integer"]),
    ("window", {"window": (1.5, 2)}, ["float", "integer"]),
    ("window", {"window": "wide"}, ["str", "integer"]),
    ("query_offset", {"query_offset": 0.5}, ["float", "integer"]),
    ("query_offset", {"query_offset": [0.0, 1.0]}, ["float64"]),
    ("key_lengths", {"key_lengths": [1.0, 2.0]}, ["float64"]),
    ("key_lengths", {"key_lengths": ones(2, dtype=bool)}, ["bool"]),
    (
        "query_segments",
        {"query_segments": ones(2, 4), "key_segments": ones(2, 5, dtype=int)},
        ["float32"],
    ),
    (
        "key_segments",
        {"query_segments": ones(2, 4, dtype=int), "key_segments": ones(2, 5)},
        ["float32"],
    ),
    ("sinks", {"sinks": ["a"] * 6}, []),
    ("alibi_slopes", {"alibi_slopes": [1j] * 6}, ["complex"]),
    ("softcap", {"softcap": "3"}, ["str"]),
    ("scale", {"scale": 1j}, ["complex"]),
    ("scale", {"scale": ones(2)}, ["ndarray"]),
    ("out", {"out": ones(2, 6, 4, 8, dtype=np.float64)}, ["float64", "float32"]),
    ("out", {"out": ones(2, 6, 4, 8, dtype=np.int8)}, ["int8", "float32"]),
    ("out", {"out": ones(2, 6, 4, 8).tolist()}, ["list"]),
    ("num_threads", {"num_threads": 1.5}, ["float", "integer"]),
    ("causal", {"causal": 1}, ["int", "True"]),
    ("return_lse", {"return_lse": 1}, ["int", "True"]),
    ("return_lse", {"return_lse": None}, ["None", "True"]),
]


@pytest.mark.parametrize("function", [cpuattn.attention, cpuattn.explain])
@pytest.mark.parametrize(
    ("error", "name", "bad", "parts"),
    [(ValueError, *row) for row in VALUES] + [(TypeError, *row) for row in TYPES],
)
def test_message(
    error: type[Exception],
    name: str,
    bad: Arguments,
    parts: list[str],
    function: Callable[..., Any],
) -> None:
    if "return_lse" in bad and function is cpuattn.explain:
        function(**(good() | bad))  # documented to change nothing
        return
    with pytest.raises(error) as info:
        function(**(good() | bad))
    assert type(info.value) is error
    for part in (name, *parts):
        assert part in str(info.value)


def test_good_arguments_are_good() -> None:
    assert cpuattn.attention(**good()).shape == (2, 6, 4, 8)
    out, lse = cpuattn.attention(**good(), return_lse=np.True_)  # type: ignore[call-overload]
    assert (out.shape, lse.shape) == ((2, 6, 4, 8), (2, 6, 4))


@pytest.mark.parametrize("extra", [QUANTISED, PAGED])
def test_good_caches_are_good(extra: Arguments) -> None:
    assert cpuattn.attention(**(good() | extra)).shape == (2, 6, 4, 8)


PAGED_KEYS: Arguments = {
    "key": ones(4, 3, 3, 7),
    "value": ones(4, 3, 3, 8),
    "block_table": [[0, 1], [2, 3]],
    "key_lengths": [6, 4],
    "cu_seqlens_k": None,
}
PACKED: list[tuple[str, Arguments, list[str]]] = [
    ("query", {"query": ones(6, 7)}, ["(6, 7)", "total"]),
    ("value", {"value": ones(4, 3, 8)}, ["(4, 3, 8)", "(5, 3, 7)"]),
    ("cu_seqlens_q", {"cu_seqlens_q": [0, 3]}, ["3", "4"]),
    ("cu_seqlens_q", {"cu_seqlens_q": [1, 2, 4]}, ["1", "0"]),
    ("cu_seqlens_k", {"cu_seqlens_k": [0, 6, 5]}, ["5", "never fall"]),
    ("cu_seqlens_k", {"cu_seqlens_k": [0, 5]}, ["(2,)", "(3,)"]),
    ("cu_seqlens_k", {"cu_seqlens_k": [[0, 2, 5]]}, ["(1, 3)"]),
    ("cu_seqlens_k", {"cu_seqlens_k": None}, ["missing"]),
    ("key_lengths", {"key_lengths": [3, 3]}, ["3", "2"]),
    ("cu_seqlens_q", {"cu_seqlens_q": None}, ["missing"]),
    ("cu_seqlens_q", {"cu_seqlens_q": None, "cu_seqlens_k": None}, ["missing"]),
    ("cu_seqlens_q", PAGED_KEYS | {"cu_seqlens_q": None}, ["missing"]),
    ("cu_seqlens_k", {"block_table": [[0], [1]]}, ["None", "block_table"]),
    ("key_lengths", PAGED_KEYS | {"key_lengths": None}, ["missing", "block_table"]),
    ("key_lengths", PAGED_KEYS | {"key_lengths": [7, 1]}, ["7", "6"]),
    ("key_lengths", PAGED_KEYS | {"key_lengths": [1, 2, 3]}, ["(3,)", "(2,)"]),
    ("block_table", PAGED_KEYS | {"block_table": [[0, 1]] * 3}, ["(3, 2)", "(2, 2)"]),
    ("block_table", PAGED_KEYS | {"block_table": [[0, 1], [0, 4]]}, ["4", "[0, 4)"]),
    ("key", PAGED_KEYS | {"key": ones(5, 3, 7)}, ["(5, 3, 7)", "page_size"]),
    ("cu_seqlens_q", PAGED_KEYS | {"cu_seqlens_q": [0, 3]}, ["3", "4"]),
    ("out", {"out": ones(6, 4, 8)}, ["(6, 4, 8)", "4"]),
    ("mask", {"mask": ones(2, 6, 4, 5, dtype=bool)}, ["(2, 6, 4, 5)", "(2, 6, 3, 3)"]),
]


@pytest.mark.parametrize("function", [cpuattn.attention_varlen, cpuattn.explain_varlen])
@pytest.mark.parametrize(("name", "bad", "parts"), PACKED)
def test_packed_message(
    name: str, bad: Arguments, parts: list[str], function: Callable[..., Any]
) -> None:
    packed: Arguments = {
        "query": ones(4, 6, 7),
        "key": ones(5, 3, 7),
        "value": ones(5, 3, 8),
        "cu_seqlens_q": [0, 1, 4],
        "cu_seqlens_k": [0, 2, 5],
    }
    for good_keys in ({}, PAGED_KEYS):
        assert cpuattn.attention_varlen(**(packed | good_keys)).shape == (4, 6, 8)
    with pytest.raises(ValueError, match=name) as info:
        function(**(packed | bad))
    for part in parts:
        assert part in str(info.value)


@pytest.mark.parametrize(
    "name", ["query", "key", "value", "mask", "bias", "sinks", "alibi_slopes", "key_segments"]
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["array", "__array__"])
def test_overlapping_output(name: str, *, wrapped: bool) -> None:
    class Wrapped:
        def __init__(self, array: Array) -> None:
            self.array = array

        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            assert dtype is None
            assert not copy
            return self.array

    memory = np.zeros((12, 6), np.float32)
    overlapping = {
        "mask": memory.view(bool)[:6, :6],
        "sinks": memory[5, :1],
        "alibi_slopes": memory[5, :1],
        "key_segments": memory.view(np.int64)[3:5].reshape(6),
    }.get(name, memory[1:7])
    arguments: Arguments = {n: np.ones((6, 6), np.float32) for n in ("query", "key", "value")}
    if name == "key_segments":
        arguments["query_segments"] = np.zeros(6, int)
    arguments[name] = Wrapped(overlapping) if wrapped else overlapping
    with pytest.raises(ValueError, match=rf"out.*overlap.*{name}"):
        cpuattn.attention(**arguments, out=memory[:6])


def test_output_that_overlaps_itself() -> None:
    out = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (6, 6), (0, 4))
    x = np.ones((6, 6), np.float32)
    with pytest.raises(ValueError, match=r"out.*overlap"):
        cpuattn.attention(x, x, x, out=out)


def test_interleaved_output_is_no_overlap() -> None:
    memory = np.ones((20, 16), np.float32)
    query, out = memory[:, :8], memory[:, 8:]
    expected = cpuattn.attention(query, query, query)
    np.testing.assert_array_equal(cpuattn.attention(query, query, query, out=out), expected)


def test_nothing_is_written_before_the_error() -> None:
    out = np.full((2, 6, 4, 8), 7, np.float32)
    with pytest.raises(ValueError, match="key_lengths"):
        cpuattn.attention(**good(), out=out, key_lengths=[5, 6])
    assert (out == 7).all()


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        cpuattn.attention(*good().values(), None)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="dropout"):
        cpuattn.attention(**good(), dropout=0.1)  # type: ignore[call-overload]


@pytest.mark.parametrize("number", [0, -1, 1.5, "2"])
def test_set_num_threads(number: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"num_threads|threads"):
        cpuattn.set_num_threads(number)
