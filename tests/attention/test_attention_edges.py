"""Empty dimensions, rows that see nothing, equal and extreme scores, sinks, log-sum-exp."""

from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import Shape, case_of, make_case
from oracle import Dtype, eps

pytestmark = pytest.mark.usefixtures("isa")

SIZES = {"batch": 2, "heads": 4, "kv_heads": 2, "queries": 11, "keys": 13, "head_dim": 5}
EMPTY = {
    "batch": {"batch": 0},
    "heads": {"heads": 0, "kv_heads": 0},
    "query heads": {"heads": 0},
    "queries": {"queries": 0},
    "keys": {"keys": 0},
    "head_dim": {"head_dim": 0, "value_dim": 3},
    "value_dim": {"value_dim": 0},
    "head_dim and value_dim": {"head_dim": 0, "value_dim": 0},
    "queries and keys": {"queries": 0, "keys": 0},
}


@pytest.mark.parametrize("names", [(), ("causal", "window"), ("bias", "mask", "sinks")], ids=str)
@pytest.mark.parametrize("queries", [1, 11])
@pytest.mark.parametrize("empty", EMPTY)
def test_empty_dimensions(empty: str, queries: int, names: tuple[str, ...], dtype: Dtype) -> None:
    shape = Shape(**(SIZES | {"queries": queries} | EMPTY[empty]))
    case = make_case(shape, dtype, names)
    case.check(num_threads=3)
    cpuattn.explain(*case.arrays, **case.options)


@pytest.mark.parametrize("queries", [1, 20])
def test_no_keys_gives_zeros_in_out_too(queries: int) -> None:
    query = np.ones((2, queries, 4), np.float32)
    nothing = np.ones((2, 0, 4), np.float32)
    out = np.full_like(query, np.nan)
    _, lse = cpuattn.attention(query, nothing, nothing, out=out, return_lse=True)
    assert (out == 0).all()
    assert np.isneginf(lse).all()


HIDE_ALL: dict[str, dict[str, Any]] = {
    "mask": {"mask": np.zeros((1, 1), bool)},
    "bias": {"bias": np.full((1, 1), -np.inf, np.float32)},
    "lengths": {"key_lengths": [0, 0]},
    "causal": {"causal": True, "query_offset": -1000},
    "window": {"window": (0, 0), "query_offset": 1000},
    "segments": {
        "query_segments": np.zeros((2, 1), int),
        "key_segments": np.ones((2, 1), int),
    },
}


@pytest.mark.parametrize("how", HIDE_ALL)
@pytest.mark.parametrize("queries", [1, 30])
@pytest.mark.parametrize("keys", [3, 600])
def test_rows_that_see_nothing(how: str, queries: int, keys: int, dtype: Dtype) -> None:
    arrays = Shape(queries, keys, heads=4).arrays(np.random.default_rng(0), dtype)
    options = HIDE_ALL[how].copy()
    if how == "segments":
        options["query_segments"] = np.broadcast_to(options["query_segments"], (2, queries))
        options["key_segments"] = np.broadcast_to(options["key_segments"], (2, keys))
    out, lse = cpuattn.attention(*arrays, **options, return_lse=True)
    np.testing.assert_array_equal(out, np.zeros_like(out))
    np.testing.assert_array_equal(lse, np.full_like(lse, -np.inf))
    sinks = [0.25, -3.0, 80.0, 0.0]
    out, lse = cpuattn.attention(*arrays, **options, sinks=sinks, return_lse=True)
    np.testing.assert_array_equal(out, np.zeros_like(out))
    expected = np.broadcast_to(np.array(sinks, dtype)[:, None], lse.shape)
    np.testing.assert_allclose(lse, expected, rtol=4 * eps(dtype))


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("fraction", [1.0, -1.0, 0.5, -1e-8])
def test_equal_scores_average(queries: int, fraction: float, dtype: Dtype) -> None:
    """A bias that is the same for all keys, up to the largest finite number, changes nothing."""
    rng = np.random.default_rng(1)
    value = rng.standard_normal((300, 7)).astype(dtype)
    zeros = np.zeros((queries, 3), dtype), np.zeros((300, 3), dtype)
    bias = np.full((1, 1), fraction * float(np.finfo(dtype).max), dtype)
    out = cpuattn.attention(*zeros, value, bias=bias)
    mean = np.broadcast_to(value.mean(axis=0, dtype=np.longdouble), out.shape)
    np.testing.assert_allclose(out, mean.astype(dtype), rtol=0, atol=30 * eps(dtype))


@pytest.mark.parametrize("queries", [1, 40])
def test_equal_huge_scores_average(queries: int, dtype: Dtype) -> None:
    """The same for scores that come from query and key themselves, near the largest number."""
    value = np.random.default_rng(2).standard_normal((300, 7)).astype(dtype)
    side = float(np.sqrt(np.finfo(dtype).max)) / 2
    key = np.full((300, 1), side, dtype)
    mean = value.mean(axis=0, dtype=np.longdouble)
    for sign in (1, -1):
        out = cpuattn.attention(np.full((queries, 1), sign * side, dtype), key, value)
        expected = np.broadcast_to(mean, out.shape).astype(dtype)
        np.testing.assert_allclose(out, expected, rtol=0, atol=30 * eps(dtype))


@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("keys", [64, 130, 500])
def test_one_key_among_equal_ones(keys: int, queries: int, dtype: Dtype) -> None:
    """Equal weights are rounded alike, so a long sum of them drifts: keys padded with zeros."""
    query, key, value = Shape(queries, keys, head_dim=6).arrays(np.random.default_rng(2), dtype)
    key[..., 1:, :] = 0
    value[..., 1:, :] = 0
    case_of((query, key, value)).check()
    case_of((query, key, value + 1)).check()


@pytest.mark.parametrize("queries", [2, 40])
def test_one_score_above_all(queries: int, dtype: Dtype) -> None:
    """Differences beyond the range of exp pick one value exactly, wherever its key stands."""
    value = np.random.default_rng(3).standard_normal((301, 4)).astype(dtype)
    zeros = np.zeros((queries, 1), dtype), np.zeros((301, 1), dtype)
    for where in (0, 1, 95, 96, 150, 300):
        bias = np.full(301, -1e30, dtype)
        bias[where] = -1e20
        out, lse = cpuattn.attention(*zeros, value, bias=bias, return_lse=True)
        np.testing.assert_array_equal(out, np.broadcast_to(value[where], out.shape))
        np.testing.assert_allclose(lse, np.full_like(lse, -1e20), rtol=1e-6)


@pytest.mark.parametrize("step", [0.5, -0.5, 3.0])
def test_scores_that_grow_and_fall(step: float, dtype: Dtype) -> None:
    """The running maximum changes in every block, or never."""
    shape = Shape(queries=20, keys=400, batch=1)
    arrays = shape.arrays(np.random.default_rng(4), dtype)
    case_of(arrays, bias=(np.arange(400) * step).astype(dtype)).check()
    few = (arrays[0][..., :1, :], *arrays[1:])
    case_of(few, bias=(np.arange(400) * step).astype(dtype)).check()


@pytest.mark.parametrize("queries", [1, 30])
@pytest.mark.parametrize("sink", [-1e30, -80.0, 0.0, 60.0, 1e30])
def test_extreme_sinks(queries: int, sink: float, dtype: Dtype) -> None:
    arrays = Shape(queries, 120).arrays(np.random.default_rng(5), dtype)
    case_of(arrays, sinks=[sink, 1.0]).check()


@pytest.mark.parametrize("queries", [1, 30])
def test_lse_is_the_natural_logarithm(queries: int, dtype: Dtype) -> None:
    zeros = np.zeros((queries, 4), dtype), np.zeros((10, 4), dtype), np.ones((10, 4), dtype)
    out, lse = cpuattn.attention(*zeros, return_lse=True)
    assert lse.shape == (queries,)
    assert lse.dtype == dtype
    np.testing.assert_allclose(lse, np.log(10), rtol=2 * eps(dtype))
    np.testing.assert_array_equal(out, cpuattn.attention(*zeros))


@pytest.mark.parametrize("queries", [1, 30])
def test_scale_zero_and_negative(queries: int, dtype: Dtype) -> None:
    arrays = Shape(queries, 50).arrays(np.random.default_rng(6), dtype)
    for scale in (0.0, -0.7, 5.0, 1e-30):
        case_of(arrays, scale=scale).check()
