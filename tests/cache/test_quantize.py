"""quantize_int8 against its definition, number by number, and what it does at the edges."""

import doctest
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cache_cases import FLOATS, Array, dtype_of, rounded
from cpuattn import _quantize, dequantize_int8, quantize_int8

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)
LARGEST = float(np.finfo(np.float32).max)


def by_definition(row: Array) -> tuple[list[int], np.float32]:
    """Quantise one row of finite numbers in plain Python."""
    wide: Any = np.float64 if row.dtype == np.float64 else np.float32
    numbers = [wide(x) for x in row]
    scale = np.float32(max(abs(x) for x in numbers) / wide(127))
    if scale == 0:
        return [0] * len(numbers), scale
    # round() of a number takes ties to even.
    return [max(-127, min(127, round(float(x / wide(scale))))) for x in numbers], scale


@pytest.mark.parametrize("magnitude", [1.0, 1e4, 1e-6])
@pytest.mark.parametrize("name", FLOATS)
def test_every_number_follows_the_definition(name: str, magnitude: float) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 8)) * magnitude
    x = x.astype(dtype_of(name))
    q, scale = quantize_int8(x)
    assert [q.dtype, scale.dtype] == [np.dtype(np.int8), np.dtype(np.float32)]
    assert (q.shape, scale.shape) == (x.shape, x.shape[:-1])
    for index in np.ndindex(scale.shape):
        expected, expected_scale = by_definition(x[index])
        assert scale[index] == expected_scale
        assert q[index].tolist() == expected
    assert abs(q).max(axis=-1).min() == 127


def test_ties_go_to_the_even_neighbour() -> None:
    q, scale = quantize_int8(np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127], np.float32))
    assert scale == 1
    assert q.tolist() == [127, 0, 2, 2, 0, -2, -2, -127]


@pytest.mark.parametrize("name", FLOATS)
def test_what_is_read_is_within_half_a_scale(name: str) -> None:
    x = np.random.default_rng(1).standard_normal((4, 7, 64)).astype(dtype_of(name))
    q, scale = quantize_int8(x)
    error = abs(dequantize_int8(q, scale, dtype="float64") - x.astype(np.float64))
    assert (error <= scale[..., None] * (0.5 + 127 * 2.0**-23)).all()
    assert error.max() > 0


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_a_row_may_lie_along_any_axis(axis: int) -> None:
    x = np.random.default_rng(2).standard_normal((3, 4, 5)).astype(np.float32)
    q, scale = quantize_int8(x, axis=axis)
    last_q, last_scale = quantize_int8(np.ascontiguousarray(np.moveaxis(x, axis, -1)))
    np.testing.assert_array_equal(np.moveaxis(q, axis, -1), last_q)
    np.testing.assert_array_equal(scale, last_scale)
    back = dequantize_int8(q, scale, axis=axis)
    np.testing.assert_array_equal(np.moveaxis(back, axis, -1), dequantize_int8(last_q, last_scale))


def test_strides_and_byte_order_change_nothing() -> None:
    x = np.random.default_rng(3).standard_normal((6, 8)).astype(np.float32)
    q, scale = quantize_int8(x)
    x.flags.writeable = False
    for same in (np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, axis=1)[:, ::2]):
        other_q, other_scale = quantize_int8(same)
        np.testing.assert_array_equal(other_q, q)
        np.testing.assert_array_equal(other_scale, scale)


@pytest.mark.parametrize("name", FLOATS)
def test_rows_of_zeros(name: str) -> None:
    x = np.zeros((3, 4), dtype_of(name))
    x[1] = [0, 1, -1, 0.5]
    q, scale = quantize_int8(x)
    assert q.tolist() == [[0] * 4, [0, 127, -127, 64], [0] * 4]
    assert scale.tolist() == [0, float(np.float32(1 / 127)), 0]
    assert dequantize_int8(q, scale)[::2].tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_a_row_that_is_not_finite_reads_as_nan(name: str, bad: float) -> None:
    x = np.ones((2, 3, 4), dtype_of(name))
    x[1, 1, 2] = bad
    q, scale = quantize_int8(x)
    assert np.argwhere(np.isnan(scale)).tolist() == [[1, 1]]
    assert q[1, 1].tolist() == [0] * 4
    back = dequantize_int8(q, scale)
    assert np.isnan(back[1, 1]).all()
    assert np.isfinite(np.delete(back.reshape(6, 4), 4, axis=0)).all()


def test_a_float64_row_beyond_float32_reads_as_nan() -> None:
    x = np.array([[1e300, 1.0], [LARGEST * 127, 0.0], [LARGEST * 128, 0.0]])
    q, scale = quantize_int8(x)
    assert np.isnan(scale).tolist() == [True, False, True]
    assert q.tolist() == [[0, 0], [127, 0], [0, 0]]


@pytest.mark.parametrize("largest", [SMALLEST_NORMAL * 127, SMALLEST_NORMAL, 190 * SMALLEST])
def test_subnormal_scales_stay_in_range(largest: float) -> None:
    x = np.array([largest, -largest, largest / 2, 0], np.float32)
    q, scale = quantize_int8(x)
    expected, expected_scale = by_definition(x)
    assert q.tolist() == expected
    assert scale == expected_scale
    assert q[0] == 127 == -q[1]


def test_a_row_too_small_for_a_scale_is_zero() -> None:
    q, scale = quantize_int8(np.array([63 * SMALLEST, -SMALLEST], np.float32))
    assert q.tolist() == [0, 0]
    assert scale == 0


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 4)])
def test_empty_arrays(shape: tuple[int, ...]) -> None:
    q, scale = quantize_int8(np.ones(shape, np.float32))
    assert (q.shape, scale.shape) == (shape, shape[:-1])
    assert not scale.any()
    assert dequantize_int8(q, scale).shape == shape


@pytest.mark.parametrize("name", FLOATS)
def test_the_product_is_rounded_once(name: str) -> None:
    q = np.arange(-127, 128, dtype=np.int8).repeat(40).reshape(255, 40)
    scale = np.random.default_rng(4).standard_normal(255).astype(np.float32)
    back = dequantize_int8(q, scale, dtype=dtype_of(name))
    exact = q.astype(np.float64) * scale[:, None].astype(np.float64)
    assert Fraction(float(exact[3, 0])) == int(q[3, 0]) * Fraction(float(scale[3]))
    assert back.dtype == dtype_of(name)
    np.testing.assert_array_equal(back, rounded(exact, name))


X = np.ones((2, 3), np.float32)
Q, S = np.ones((2, 3), np.int8), np.ones(2, np.float32)
BAD: list[tuple[type[Exception], str, Any]] = [
    (TypeError, "x must be float32, .* got int64", lambda: quantize_int8(np.ones(3, np.int64))),
    (TypeError, "x must be .* got complex128", lambda: quantize_int8(np.ones(3, complex))),
    (TypeError, "x is of type list", lambda: quantize_int8([1.0])),
    (ValueError, "axis must be from -2 to 1, got 2", lambda: quantize_int8(X, axis=2)),
    (ValueError, "axis must be at least -2, got -3", lambda: quantize_int8(X, axis=-3)),
    (TypeError, "axis must be an integer", lambda: quantize_int8(X, axis=1.0)),  # type: ignore[arg-type]
    (TypeError, "q must be int8, got float32", lambda: dequantize_int8(X, S)),
    (TypeError, "scale must be float32, got float64", lambda: dequantize_int8(Q, np.ones(2))),
    (ValueError, r"scale must have shape \(2,\).* got \(3,\)", lambda: dequantize_int8(Q, X[0])),
    (ValueError, r"scale must have shape \(3,\)", lambda: dequantize_int8(Q, S, axis=0)),
    (TypeError, "dtype must be .* got 'int8'", lambda: dequantize_int8(Q, S, dtype="int8")),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD)
def test_errors_name_the_argument(error: type[Exception], message: str, call: Any) -> None:
    with pytest.raises(error, match=message):
        call()


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(_quantize)
    assert result.attempted >= 4
    assert result.failed == 0
