"""Every pair of options together, and what causal, window, offset, lengths and segments see."""

import itertools
from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import OPTIONS, Shape, make_case
from oracle import Dtype, assert_accurate

SHAPES = (
    Shape(queries=9, keys=150, head_dim=5),
    Shape(queries=70, keys=40, heads=4, batch=3),
    Shape(queries=33, keys=33, head_dim=12, value_dim=7),
    Shape(queries=1, keys=200, heads=4, kv_heads=1),
    Shape(queries=3, keys=700, batch=3),
)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.queries}x{s.keys}")
@pytest.mark.parametrize("names", list(itertools.combinations(OPTIONS, 2)), ids="+".join)
def test_every_pair(names: tuple[str, ...], shape: Shape, dtype: Dtype) -> None:
    make_case(shape, dtype, names).check()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.queries}x{s.keys}")
def test_single_options_and_all_together(shape: Shape, dtype: Dtype) -> None:
    for name in OPTIONS:
        make_case(shape, dtype, (name,)).check()
    make_case(shape, dtype, tuple(OPTIONS)).check()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    "names", [("causal",), ("window",), ("segments",), ("lengths", "causal")], ids=str
)
def test_many_blocks(names: tuple[str, ...], dtype: Dtype) -> None:
    shape = Shape(queries=200, keys=420, heads=2, kv_heads=1, batch=2)
    make_case(shape, dtype, names).check()


def visible(queries: int, keys: int, **options: Any) -> list[str]:
    """Which keys a query sees: equal scores and unit values make the output the weights."""
    query = np.zeros((1, 1, queries, 1), np.float32)
    key = np.zeros((1, 1, keys, 1), np.float32)
    value = np.eye(keys, dtype=np.float32)
    weights = cpuattn.attention(query, key, value, **options)[0, 0]
    for row in weights:
        seen = np.count_nonzero(row)
        np.testing.assert_allclose(row[row != 0] * seen, 1, rtol=1e-6)
    return ["".join("x" if weight else "." for weight in row) for row in weights]


@pytest.mark.parametrize(
    ("queries", "keys", "options", "expected"),
    [
        (2, 5, {"causal": True}, ["xxxx.", "xxxxx"]),
        (5, 2, {"causal": True}, ["..", "..", "..", "x.", "xx"]),
        (2, 5, {"causal": True, "query_offset": 0}, ["x....", "xx..."]),
        (5, 2, {"causal": True, "query_offset": 0}, ["x.", "xx", "xx", "xx", "xx"]),
        (2, 5, {"causal": True, "query_offset": -1}, [".....", "x...."]),
        (2, 5, {"causal": True, "query_offset": 9}, ["xxxxx", "xxxxx"]),
        (3, 5, {"causal": True, "key_lengths": [4]}, ["xx...", "xxx..", "xxxx."]),
        (
            3,
            5,
            {"causal": True, "key_lengths": [4], "query_offset": 0},
            ["x....", "xx...", "xxx.."],
        ),
        (3, 5, {"key_lengths": 2}, ["xx...", "xx...", "xx..."]),
        (3, 5, {"key_lengths": [0]}, [".....", ".....", "....."]),
        (3, 3, {"window": 0}, ["x..", ".x.", "..x"]),
        (3, 3, {"window": 1}, ["xx.", "xxx", ".xx"]),
        (3, 3, {"window": (1, 0)}, ["x..", "xx.", ".xx"]),
        (3, 3, {"window": (0, 1)}, ["xx.", ".xx", "..x"]),
        (3, 3, {"window": (None, 0)}, ["x..", "xx.", "xxx"]),
        (3, 3, {"window": (0, None)}, ["xxx", ".xx", "..x"]),
        (3, 3, {"window": (None, None)}, ["xxx", "xxx", "xxx"]),
        (3, 3, {"window": (1, 1), "causal": True}, ["x..", "xx.", ".xx"]),
        (2, 5, {"window": (1, 0)}, ["..xx.", "...xx"]),
        (2, 5, {"window": (1, 0), "query_offset": 0}, ["x....", "xx..."]),
        (2, 5, {"window": (1, 0), "query_offset": 5}, ["....x", "....."]),
        (
            3,
            4,
            {"query_segments": [[7, 7, -1]], "key_segments": [[7, -1, 7, 0]]},
            ["x.x.", "x.x.", ".x.."],
        ),
    ],
)
@pytest.mark.usefixtures("isa")
def test_which_keys_are_seen(
    queries: int, keys: int, options: dict[str, Any], expected: list[str]
) -> None:
    assert visible(queries, keys, **options) == expected


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("length", [3, 70])
def test_window_ends(length: int) -> None:
    for width in (0, 1, length - 1, length, length + 1):
        rows = visible(length, length, window=width)
        assert [row.count("x") for row in rows] == [
            min(length, i + width + 1) - max(0, i - width) for i in range(length)
        ]


def test_lists_and_integer_arrays_mean_the_same() -> None:
    case = make_case(Shape(queries=12, keys=20), np.float32, ("lengths", "offset", "alibi"))
    expected = cpuattn.attention(*case.arrays, **case.options)
    for kind in (np.int32, np.uint16, np.int64):
        options: dict[str, Any] = {name: np.asarray(case.options[name]) for name in case.options}
        options["key_lengths"] = options["key_lengths"].astype(kind)
        options["query_offset"] = options["query_offset"].astype(np.int32)
        np.testing.assert_array_equal(cpuattn.attention(*case.arrays, **options), expected)


def test_bias_dtype_is_free(dtype: Dtype) -> None:
    case = make_case(Shape(queries=12, keys=20), dtype, ("bias",))
    bias = case.options["bias"]
    as_float32, as_float64 = (
        cpuattn.attention(*case.arrays, bias=bias.astype(kind)) for kind in (np.float32, np.float64)
    )
    np.testing.assert_array_equal(as_float32, as_float64)


def test_bias_of_minus_infinity_is_a_mask() -> None:
    shape = Shape(queries=30, keys=50)
    case = make_case(shape, np.float32, ("mask",))
    bias = np.where(case.options["mask"], np.float32(0), np.float32(-np.inf))
    out = cpuattn.attention(*case.arrays, bias=bias)
    assert_accurate(out, case.exact.out, case.plain.out)
