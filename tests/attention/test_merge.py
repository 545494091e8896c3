"""Merging results over parts of the keys: the whole, exactly, whatever the parts."""

import doctest
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import oracle
from cpuattn import _merge, attention, merge_attention

Array = NDArray[Any]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cuts", [[20], [1, 2, 3], [0, 0, 30, 37, 37]])
def test_parts_of_the_keys_merge_to_the_whole(cuts: list[int], dtype: Any) -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, 4, 6, 8)).astype(dtype)
    key, value = (rng.standard_normal((2, 2, 37, 8)).astype(dtype) for _ in range(2))
    parts = []
    for start, end in zip([0, *cuts], [*cuts, 37], strict=True):
        # Causal over the whole: key j of the part is key start + j, so queries stand further left.
        here = attention(
            query,
            key[..., start:end, :],
            value[..., start:end, :],
            causal=True,
            query_offset=31 - start,
            return_lse=True,
        )
        parts.append(here)
    out, lse = merge_attention(*zip(*parts, strict=True))
    wide = np.longdouble if dtype is np.float64 else np.float64
    exact = oracle.attend(query, key, value, causal=True, dtype=wide)
    plain = oracle.attend(query, key, value, causal=True, dtype=dtype)
    oracle.assert_accurate(out, exact.out, plain.out)
    oracle.assert_accurate(lse, exact.lse, plain.lse)


def test_an_empty_part_adds_nothing_even_if_it_holds_nan() -> None:
    out, lse = merge_attention(
        [np.array([[np.nan, np.inf], [1.0, 2.0]]), np.array([[3.0, 4.0], [np.nan, np.nan]])],
        [np.array([-np.inf, 0.5]), np.array([0.25, -np.inf])],
    )
    np.testing.assert_array_equal(out, [[3.0, 4.0], [1.0, 2.0]])
    np.testing.assert_array_equal(lse, [0.25, 0.5])


def test_all_parts_empty_is_an_empty_row() -> None:
    out, lse = merge_attention(np.zeros((3, 2, 4)), np.full((3, 2), -np.inf))
    np.testing.assert_array_equal(out, np.zeros((2, 4)))
    np.testing.assert_array_equal(lse, [-np.inf, -np.inf])


def test_nan_stays_in_its_row() -> None:
    outputs, lses = np.ones((2, 3, 2)), np.zeros((2, 3))
    outputs[0, 0, 1] = np.nan
    lses[1, 1] = np.nan
    out, lse = merge_attention(outputs, lses)
    np.testing.assert_array_equal(out, [[1, np.nan], [np.nan, np.nan], [1, 1]])
    np.testing.assert_array_equal(lse, [np.log(2), np.nan, np.log(2)])


@pytest.mark.parametrize("base", [1e4, -1e4, 1e30, -1e30])
def test_sums_far_outside_the_range_of_exp(base: float) -> None:
    outputs = np.array([[[1.0]], [[2.0]]])
    out, lse = merge_attention(outputs, np.array([[base], [base]]))
    np.testing.assert_array_equal(out, [[1.5]])
    np.testing.assert_allclose(lse, [base + np.log(2)], rtol=1e-15)
    far, far_lse = merge_attention(outputs, np.array([[base], [base - abs(base)]]))
    np.testing.assert_array_equal(far, [[1.0]])
    np.testing.assert_array_equal(far_lse, [base])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    outputs = rng.standard_normal((19, 3, 50, 7), dtype)
    lses = rng.standard_normal((19, 3, 50), dtype)
    out, lse = merge_attention(outputs, lses)
    for row in range(50):
        one = slice(row, row + 1)
        alone, alone_lse = merge_attention(list(outputs[:, 1, one]), list(lses[:, 1, one]))
        np.testing.assert_array_equal(alone, out[1, one])
        np.testing.assert_array_equal(alone_lse, lse[1, one])
    assert out.dtype == lse.dtype == dtype


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_narrow_outputs_are_merged_in_float32(dtype: np.dtype[Any]) -> None:
    query, key, value = np.random.default_rng(2).standard_normal((3, 2, 3, 50, 8)).astype(dtype)
    parts = [
        attention(query, key[:, :, part], value[:, :, part], return_lse=True)
        for part in (slice(0), slice(20), slice(20, 50))
    ]
    outputs, lses = [part[0] for part in parts], [part[1] for part in parts]
    out, lse = merge_attention(outputs, lses)
    wide, wide_lse = merge_attention([x.astype(np.float32) for x in outputs], lses)
    assert out.dtype == dtype
    assert lse.dtype == np.float32
    np.testing.assert_array_equal(out.astype(np.float32), wide.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(lse, wide_lse)


ONE = (np.ones((2, 3)), np.ones(2))
BAD: list[tuple[type[Exception], str, Any, Any]] = [
    (ValueError, "outputs must hold at least one part", [], []),
    (ValueError, "lses must hold one array per output: 2, got 1", [ONE[0]] * 2, [ONE[1]]),
    (ValueError, r"outputs\[1\] must be \(2, 3\).* \(1, 3\)", [ONE[0], ONE[0][:1]], [ONE[1]] * 2),
    (ValueError, r"lses\[0\] must be \(2,\), got \(3,\)", [ONE[0]], [np.ones(3)]),
    (ValueError, r"outputs\[0\] must have shape .* got \(3,\)", ONE[0], ONE[1]),
    (TypeError, "outputs must be float32, .* got int64", np.ones((1, 2, 3), int), ONE[1:]),
    (
        TypeError,
        "lses float32, got float16 and float16",
        np.ones((1, 2, 3), "e"),
        np.ones((1, 2), "e"),
    ),
    (TypeError, r"outputs\[0\] is of type list", [[1.0]], [1.0]),
    (TypeError, "float64 and float32 in part 0", [ONE[0]], [np.ones(2, np.float32)]),
]


@pytest.mark.parametrize(("error", "message", "outputs", "lses"), BAD)
def test_errors_name_the_argument(
    error: type[Exception], message: str, outputs: Any, lses: Any
) -> None:
    with pytest.raises(error, match=message):
        merge_attention(outputs, lses)


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(_merge)
    assert result.attempted >= 4
    assert result.failed == 0


def test_shares_below_the_range_of_float32() -> None:
    """A part of weight exp(-95), which float32 holds with 11 bits only, and one of 1e-60."""
    outputs = [np.zeros((1, 2), np.float32), np.array([[1e35, 3e38]], np.float32)]
    for below in (95.0, 138.0):
        lses = [np.zeros(1, np.float32), np.full(1, -below, np.float32)]
        out, _ = merge_attention(outputs, lses)
        np.testing.assert_allclose(out, np.exp(-below) * outputs[1].astype(np.float64), rtol=1e-6)
