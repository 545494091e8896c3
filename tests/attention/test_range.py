"""The whole range of a dtype: values, weights, scores and softcaps near both of its ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import ArrayLike

import cpuattn
from cpuattn import _core
from oracle import Array, Dtype, attend, eps

ROWS = [1, 3, 8, 9, 40]


@contextmanager
def using(name: str) -> Iterator[None]:
    """Run the block with an instruction set of this CPU."""
    before = _core.config()["isa"]
    _core._use_isa(name)
    yield
    _core._use_isa(before)


def smallest(dtype: Dtype) -> float:
    return float(np.finfo(dtype).smallest_subnormal)


def wide(dtype: Dtype) -> Dtype:
    return np.longdouble if dtype is np.float64 else np.float64


def ones(rows: int, dims: int, dtype: Dtype) -> Array:
    return np.ones((rows, dims), dtype)


def assert_close(got: Array, exact: Array, dtype: Dtype, units: float = 8) -> None:
    """Assert each element to be right to some units of its own last place, and finite."""
    assert np.isfinite(got).all()
    error = abs(got.astype(exact.dtype) - exact)
    allowed = units * eps(dtype) * abs(exact) + 2 * smallest(dtype)
    assert (error <= allowed).all(), (got[error > allowed][:5], exact[error > allowed][:5])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("keys", [1, 2, 700])
def test_values_of_every_size(rows: int, keys: int, dtype: Dtype) -> None:
    """Each column has a size of its own, from the smallest number to the largest."""
    info = np.finfo(dtype)
    exponents = np.linspace(info.minexp - info.nmant, info.maxexp - 1, 40).astype(int)
    rng = np.random.default_rng(0)
    value = np.ldexp(rng.uniform(1, 1.9, (keys, 40)), exponents).astype(dtype)
    query, key = (rng.standard_normal((n, 8)).astype(dtype) for n in (rows, keys))
    exact = attend(query, key, value, dtype=wide(dtype)).out
    plain = attend(query, key, value, dtype=dtype).out
    out = cpuattn.attention(query, key, value)
    error, allowed = (abs(x - exact).max(axis=0) for x in (out, plain))
    floor = 4 * eps(dtype) * abs(exact).max(axis=0) + 2 * smallest(dtype)
    assert (error <= 2 * allowed + floor).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", ROWS)
def test_weights_down_to_the_smallest_number(rows: int, dtype: Dtype) -> None:
    """One key far below another: its weight is all that its value is seen by."""
    lowest = 103 if dtype is np.float32 else 744
    below = np.linspace(1, lowest, 25).astype(dtype)
    for distance in below:
        key = np.array([[0], [-distance]], dtype)
        weight = np.exp(-wide(dtype)(distance))
        share = weight / (1 + weight)
        value = np.array([[0, 0], [1, 1e30]], dtype)
        out = cpuattn.attention(ones(rows, 1, dtype), key, value, scale=1.0)
        # The forward kernel rounds the exponent of its weights: docs/semantics.md.
        units = 8 if rows <= 8 else 8 + float(distance)
        assert_close(out[:, 0], np.full(rows, share), dtype, units)
        if share > 2 * np.finfo(dtype).tiny:
            assert_close(out[:, 1], np.full(rows, share * value[1, 1]), dtype, units)
        weights = cpuattn.attention_weights(ones(rows, 1, dtype), key, scale=1.0)
        assert_close(weights[:, 1], np.full(rows, share), dtype)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", [*ROWS, 130])
@pytest.mark.parametrize("keys", [1, 97, 3000])
def test_averages_of_the_largest_number(rows: int, keys: int, dtype: Dtype) -> None:
    most = float(np.finfo(dtype).max)
    value = np.full((keys, 5), most, dtype)
    value[:, 1] = -most
    value[:, 2] = most / 2
    value[:, 3] = 1
    value[:, 4] = np.finfo(dtype).tiny * 64
    rng = np.random.default_rng(1)
    query, key = (rng.standard_normal((n, 8)).astype(dtype) for n in (rows, keys))
    for bias in (
        None,
        np.linspace(0, 30, keys, dtype=dtype),
        np.linspace(30, 0, keys, dtype=dtype),
    ):
        out = cpuattn.attention(query, key, value, bias=bias)
        assert_close(out, np.broadcast_to(value[0].astype(wide(dtype)), out.shape), dtype, 16)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", [1, 9])
def test_a_million_of_the_largest_number(rows: int) -> None:
    most = np.finfo(np.float32).max
    value = np.broadcast_to(most, (2**20, 2))
    key = np.broadcast_to(np.float32(1), (2**20, 1))
    out = cpuattn.attention(ones(rows, 1, np.float32), key, value)
    np.testing.assert_allclose(out, most, rtol=1e-6)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", ROWS)
def test_large_values_that_cancel(rows: int, dtype: Dtype) -> None:
    most = float(np.finfo(dtype).max)
    value = np.full((1000, 1), most, dtype)
    value[1::2] = -most
    value[7] = most / 4
    query, key = np.zeros((rows, 3), dtype), np.zeros((1000, 3), dtype)
    out = cpuattn.attention(query, key, value)
    exact = value.astype(np.longdouble).mean()
    assert abs(out.astype(np.longdouble) - exact).max() <= 4 * eps(dtype) * most


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", ROWS)
def test_large_values_without_weight_leave_small_ones_whole(rows: int, dtype: Dtype) -> None:
    """Their sums overflow in the blocks that are read first, where no larger score is known."""
    info = np.finfo(dtype)
    value = np.full((2000, 1), info.max, dtype)
    value[1500:] = info.tiny * 8
    bias = np.where(np.arange(2000) < 1500, -800, 0).astype(dtype)
    zeros = np.zeros((rows, 3), dtype), np.zeros((2000, 3), dtype)
    out = cpuattn.attention(*zeros, value, bias=bias)
    assert_close(out, np.full((rows, 1), float(info.tiny) * 8), dtype)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", ROWS)
def test_infinity_and_nan_stay_in_their_columns(rows: int, dtype: Dtype) -> None:
    rng = np.random.default_rng(2)
    query, key = (rng.standard_normal((n, 8)).astype(dtype) for n in (rows, 1500))
    value = rng.standard_normal((1500, 6)).astype(dtype)
    clean = cpuattn.attention(query, key, value)
    value[3, 1], value[4, 2], value[700, 3] = np.inf, np.nan, -np.inf
    value[5, 4], value[1400, 4] = np.inf, -np.inf
    dirty = cpuattn.attention(query, key, value)
    np.testing.assert_array_equal(dirty[:, [0, 5]], clean[:, [0, 5]])
    expected = np.broadcast_to(np.array([np.inf, np.nan, -np.inf, np.nan], dtype), (rows, 4))
    np.testing.assert_array_equal(dirty[:, 1:5], expected)
    # Hidden, they change nothing, not even beside sums that overflow.
    value[:, 0] = np.finfo(dtype).max
    mask = np.isfinite(value).all(axis=1)
    masked = cpuattn.attention(query, key, value, mask=mask)
    shown = cpuattn.attention(query, key[mask], value[mask])
    assert_close(masked, shown.astype(wide(dtype)), dtype, 4000)
    np.testing.assert_allclose(masked[:, 0], value[0, 0], rtol=16 * eps(dtype))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_overflow_has_the_same_bits_in_any_company(rows: int, group: int, dtype: Dtype) -> None:
    """For any number of threads, beside other rows, and whatever chunks are items of their own."""
    rng = np.random.default_rng(3)
    most = float(np.finfo(dtype).max)
    query = rng.standard_normal((2 * group, rows, 8)).astype(dtype)
    key = rng.standard_normal((2, 3000, 8)).astype(dtype)
    value = (rng.uniform(0.1, 1, (2, 3000, 7)) * most).astype(dtype)
    value[1, :, 3:] /= most
    options: dict[str, Any] = {"sinks": np.linspace(-3, 3, 2 * group), "return_lse": True}
    whole, lse = cpuattn.attention(query, key, value, num_threads=1, **options)
    assert np.isfinite(whole).all()
    for threads in (2, 3, 8):
        out, same = cpuattn.attention(query, key, value, num_threads=threads, **options)
        np.testing.assert_array_equal(out, whole)
        np.testing.assert_array_equal(same, lse)
    _, small = cpuattn.attention(query, key, value / most, **options)
    np.testing.assert_array_equal(lse, small)
    exact = attend(query, key, value, dtype=wide(dtype), sinks=options["sinks"]).out
    plain = attend(query, key, value, dtype=dtype, sinks=options["sinks"]).out
    error, allowed = (abs(x - exact).max(axis=(0, 1)) for x in (whole, plain))
    assert (error <= 2 * allowed + 4 * eps(dtype) * abs(exact).max(axis=(0, 1))).all()
    if rows == 40:
        some = cpuattn.attention(query[:, 20:33], key, value, sinks=options["sinks"])
        np.testing.assert_array_equal(some, whole[:, 20:33])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_overflow_into_narrow_and_strided_results(rows: int, name: str) -> None:
    value = np.full((600, 3), np.finfo(np.float32).max / 2, np.float32)
    value[:, 1], value[:, 2] = 1e5, 2
    zeros = np.zeros((2, rows, 4), np.float32), np.zeros((2, 600, 4), np.float32)
    out = np.zeros((rows, 3, 2), name).transpose(2, 0, 1)
    with np.errstate(over="ignore"):
        expected = np.broadcast_to(value[0].astype(name), out.shape).astype(np.float64)
    cpuattn.attention(*zeros, np.stack([value, value]), out=out)
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=1e-6)


# query, key, scale: every exact score is `score`, another key's is 0.
SCORES = {
    "query too large for the scale": (1e38, 1e-38, 10.0),
    "query too small for the scale": (1e-38, 1e38, 0.1),
    "scale beyond float32": (1e-30, 1e-9, 1e39),
    "scale below float32": (1e38, 1e8, 1e-46),
    "negative scale beyond float32": (-1e-30, 1e-9, -1e39),
    "subnormal scale": (1e20, 1e20, 1e-40),
    "scale at the end of double": (1e-30, 1e-30, 1e60),
    "scale at the other end": (1e30, 1e30, 1e-60),
    "subnormal query": (1e-41, 1e38, 1e3),
    "largest key": (1e-20, 3e38, 1e-18),
    "smallest key": (3e38, 1e-41, 1e3),
}


def mean_of(score: ArrayLike) -> Array:
    """Values 1 and 2 by a softmax over `score` and 0."""
    with np.errstate(over="ignore"):
        return np.asarray(1 + 1 / (1 + np.exp(np.asarray(score, np.longdouble))))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", SCORES)
def test_scores_in_range_of_factors_that_are_not(rows: int, name: str) -> None:
    number, other, scale = SCORES[name]
    query = np.full((rows, 3), number, np.float32)
    query[:, 1:] = 0
    query[0] *= np.float32(0.5)
    key = np.array([[other, 0, 0], [0, 0, 0]], np.float32)
    value = np.array([[1.0], [2.0]], np.float32)
    exact = query[:, 0].astype(np.longdouble) * key[0, 0].astype(np.longdouble) * scale
    out = cpuattn.attention(query, key, value, scale=scale)
    np.testing.assert_allclose(out[:, 0], mean_of(exact), rtol=1e-6)
    scores = cpuattn.attention_weights(query, key, scale=scale, stage="scores")
    np.testing.assert_allclose(scores[:, 0], exact, rtol=1e-6)
    # A usual row beside them has the bits that it has alone.
    mixed = np.concatenate([query, np.full((1, 3), 0.25, np.float32)])
    last = cpuattn.attention(mixed, key, value, scale=scale)[-1:]
    if (rows < 8) == (rows + 1 <= 8):
        alone = np.broadcast_to(mixed[-1:], mixed.shape)
        np.testing.assert_array_equal(last, cpuattn.attention(alone, key, value, scale=scale)[-1:])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize(
    "factors",
    [(1e300, 1e-300, 10.0), (1e-300, 1e-5, 1e305), (1e-310, 1e305, 1e5), (1e200, 1e108, 1e-308)],
)
def test_scores_at_the_ends_of_float64(rows: int, factors: tuple[float, float, float]) -> None:
    number, other, scale = factors
    query, key = np.full((rows, 1), number), np.array([[other], [0.0]])
    exact = np.longdouble(number) * np.longdouble(other) * np.longdouble(scale)
    out = cpuattn.attention(query, key, np.array([[1.0], [2.0]]), scale=scale)
    np.testing.assert_allclose(out[:, 0], np.broadcast_to(mean_of(exact), rows), rtol=1e-13)


@pytest.mark.parametrize("isa_name", [*cpuattn.isas()])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    "factors", [(1e37, 1e-39, None), (1e-37, 1e36, None), (1e30, 1e-30, 1e-3), (1e-9, 1e-30, 1e37)]
)
def test_scores_of_int8_keys(isa_name: str, rows: int, factors: tuple[float, float, Any]) -> None:
    number, key_scale, scale = factors
    query = np.full((rows, 4), number, np.float32)
    key = np.array([[100] * 4, [0] * 4], np.int8)
    scales = np.full(2, key_scale, np.float32)
    value, value_scale = np.array([[1], [2]], np.int8), np.ones(2, np.float32)
    exact = query[:, 0].astype(np.longdouble) * 400 * scales[0].astype(np.longdouble)
    exact *= 0.5 if scale is None else scale
    with using(isa_name):
        out = cpuattn.attention(
            *(query, key, value), key_scale=scales, value_scale=value_scale, scale=scale
        )
    np.testing.assert_allclose(out[:, 0], mean_of(exact), rtol=2e-6)


@pytest.mark.parametrize("isa_name", [*cpuattn.isas()])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("scale", [1e-43, 1e-40, 3e-39, 1e-37, 1e-30, 1.0, 1e36, 2.6e36, 1e38])
def test_value_scales_of_every_size(isa_name: str, rows: int, scale: float) -> None:
    rng = np.random.default_rng(4)
    most = int(min(127, 3.4e38 / scale))
    value = rng.integers(-most, most + 1, (900, 6)).astype(np.int8)
    value[:, 0] = most
    key = rng.integers(-127, 128, (900, 8)).astype(np.int8)
    key_scale = np.full(900, 1 / 64, np.float32)
    value_scale = np.full(900, scale, np.float32)
    query = rng.standard_normal((rows, 8)).astype(np.float32)
    dense = value * value_scale.astype(np.float64)[:, None]
    exact = attend(query, key * key_scale[:, None], dense).out
    with using(isa_name):
        out = cpuattn.attention(query, key, value, key_scale=key_scale, value_scale=value_scale)
    assert np.isfinite(out).all()
    allowed = 30 * eps(np.float32) * abs(dense).max() + 2 * smallest(np.float32)
    assert abs(out - exact).max() <= allowed


@pytest.mark.parametrize("isa_name", [*cpuattn.isas()])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", [name for name in SCORES if "subnormal" not in name])
def test_scores_of_bfloat16(isa_name: str, rows: int, name: str) -> None:
    number, other, scale = SCORES[name]
    bfloat16 = ml_dtypes.bfloat16
    query = np.full((rows, 2), number).astype(bfloat16)
    query[:, 1] = 0
    small = abs(other) < 1.2e-38
    key = np.array([[1e-37 if small else other, 0], [0, 0]]).astype(bfloat16)
    value = np.array([[1.0], [2.0]]).astype(bfloat16)
    exact = query[:, 0].astype(np.longdouble) * key[0, 0].astype(np.longdouble) * scale
    with using(isa_name):
        out = cpuattn.attention(query, key, value, scale=scale)
    np.testing.assert_allclose(out[:, 0].astype(np.float64), mean_of(exact), rtol=1e-2)


@pytest.mark.parametrize("isa_name", [*cpuattn.isas()])
@pytest.mark.parametrize("rows", ROWS)
def test_bfloat16_values_of_every_normal_size(isa_name: str, rows: int) -> None:
    bfloat16 = ml_dtypes.bfloat16
    rng = np.random.default_rng(5)
    exponents = np.linspace(-120, 127, 40).astype(int)
    value = np.ldexp(rng.uniform(1, 1.9, (300, 40)), exponents).astype(bfloat16)
    query, key = (rng.standard_normal((n, 8)).astype(bfloat16) for n in (rows, 300))
    exact = attend(query, key, value).out
    with using(isa_name):
        out = cpuattn.attention(query, key, value).astype(np.float64)
    assert (abs(out / exact - 1) <= 0.02).all()


CAPS = [1e-300, 1e-46, 1e-44, 1e-40, 1e-38, 1e-30, 1e-3, 1.0, 1e10, 1e30, 1e35]
CAPS += [1e37, 1e38, 1.7e38, 3.4e38, 3.5e38, 1e39, 1e60, 1e300, 1.7e308]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("softcap", CAPS)
def test_every_softcap(rows: int, softcap: float, dtype: Dtype) -> None:
    rng = np.random.default_rng(6)
    query, key, value = (rng.standard_normal((n, 16)).astype(dtype) for n in (rows, 50, 50))
    exact = attend(query, key, value, dtype=np.longdouble, softcap=softcap)
    out = cpuattn.attention(query, key, value, softcap=softcap)
    assert abs(out - exact.out).max() <= 8 * eps(dtype) * abs(exact.out).max()
    capped = cpuattn.attention_weights(query, key, softcap=softcap, stage="softcapped")
    slope = 1 - np.tanh(exact.scores / np.longdouble(softcap)) ** 2  # of the score's own error
    allowed = 8 * eps(dtype) * (abs(exact.softcapped).max() + slope * abs(exact.scores).max())
    assert (abs(capped - exact.softcapped) <= allowed + 2 * smallest(dtype)).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("softcap", [1.0, 50.0, 3e38])
def test_softcap_of_scores_at_the_end_of_the_range(rows: int, softcap: float) -> None:
    query, key = (
        np.full((rows, 1), 1e30, np.float32),
        np.array([[1e8], [-1e8], [1e-30]], np.float32),
    )
    exact = attend(query, key, key, softcap=softcap, scale=2.0)
    capped = cpuattn.attention_weights(query, key, softcap=softcap, scale=2.0, stage="softcapped")
    np.testing.assert_allclose(capped, exact.softcapped, rtol=2e-6)
    # Scores beyond the range are the cap too.
    capped = cpuattn.attention_weights(query, key, softcap=softcap, scale=1e9, stage="softcapped")
    np.testing.assert_allclose(capped[:, :2], np.full((rows, 2), [softcap, -softcap]), rtol=2e-6)
