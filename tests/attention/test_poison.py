"""NaN and infinity: never out of what a row cannot see, always out of what it can see."""

from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import Shape, case_of, make_case
from oracle import Array, Dtype, assert_accurate

pytestmark = pytest.mark.usefixtures("isa")

SHAPES = {
    "many rows": Shape(queries=75, keys=230, head_dim=6),
    "few rows": Shape(queries=2, keys=230, head_dim=6),
    "split keys": Shape(queries=1, keys=1300, head_dim=6, heads=4),
}
HIDING = (
    ("causal",),
    ("window",),
    ("lengths",),
    ("segments",),
    ("mask",),
    ("bias",),
    ("causal", "offset"),
)
# (key, what stands there): the ends, and both sides of where vectors and blocks end.
POISONED = ((0, np.nan), (15, np.inf), (64, -np.inf), (95, np.nan), (128, np.inf), (-1, np.nan))


def rows_that_see(masked: Array, key: int) -> Array:
    return ~np.isneginf(masked[..., key])


@pytest.mark.parametrize("target", [1, 2], ids=["key", "value"])
@pytest.mark.parametrize("names", HIDING, ids="+".join)
@pytest.mark.parametrize("shape", SHAPES)
def test_only_rows_that_see_it(
    shape: str, names: tuple[str, ...], target: int, dtype: Dtype
) -> None:
    clean = make_case(SHAPES[shape], dtype, names)
    expected = cpuattn.attention(*clean.arrays, **clean.options, return_lse=True)
    for key, poison in POISONED:
        arrays = [x.copy() for x in clean.arrays]
        arrays[target][..., key, 1] = poison
        dirty = case_of((arrays[0], arrays[1], arrays[2]), **clean.options)
        out, lse = cpuattn.attention(*dirty.arrays, **dirty.options, return_lse=True)
        assert_accurate(out, dirty.exact.out, dirty.plain.out)
        blind = ~rows_that_see(clean.exact.masked, key)
        np.testing.assert_array_equal(out[blind], expected[0][blind])
        np.testing.assert_array_equal(lse[blind], expected[1][blind])
        if target == 2:
            np.testing.assert_array_equal(lse, expected[1])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", SHAPES)
def test_padding_beyond_the_lengths(shape: str, poison: float, dtype: Dtype) -> None:
    """A cache that is longer than its contents, its tail uninitialised."""
    sizes = SHAPES[shape]
    for lengths in ([1, sizes.keys - 1], [0, 65], [64, 97], [sizes.keys // 2, 3]):
        query, key, value = sizes.arrays(np.random.default_rng(0), dtype)
        for causal in (False, True):
            case = case_of((query, key, value), key_lengths=lengths, causal=causal)
            padded = key.copy(), value.copy()
            for b, length in enumerate(lengths):
                padded[0][b, :, length:] = poison
                padded[1][b, :, length:] = poison
            out = cpuattn.attention(query, *padded, key_lengths=lengths, causal=causal)
            assert_accurate(out, case.exact.out, case.plain.out)
            np.testing.assert_array_equal(out, cpuattn.attention(*case.arrays, **case.options))


@pytest.mark.parametrize("where", [slice(0, 96), slice(96, 192), slice(150, 230), slice(3, 229)])
@pytest.mark.parametrize("shape", ["many rows", "few rows"])
def test_whole_blocks_of_poison_behind_a_mask(shape: str, where: slice, dtype: Dtype) -> None:
    query, key, value = SHAPES[shape].arrays(np.random.default_rng(1), dtype)
    mask = np.ones(230, bool)
    mask[where] = False
    options: tuple[dict[str, Any], ...] = ({"mask": mask}, {"bias": np.where(mask, 0, -np.inf)})
    expected = [cpuattn.attention(query, key, value, **each) for each in options]
    key[..., where, :] = np.nan
    value[..., where, :] = np.inf
    for each, clean in zip(options, expected, strict=True):
        np.testing.assert_array_equal(cpuattn.attention(query, key, value, **each), clean)


@pytest.mark.parametrize("shape", SHAPES)
def test_nan_in_one_query_row(shape: str, dtype: Dtype) -> None:
    query, key, value = SHAPES[shape].arrays(np.random.default_rng(2), dtype)
    expected = cpuattn.attention(query, key, value)
    row = query.shape[-2] - 1
    query[1, 1, row, 3] = np.nan
    out, lse = cpuattn.attention(query, key, value, return_lse=True)
    assert np.isnan(out[1, 1, row]).all()
    assert np.argwhere(np.isnan(lse)).tolist() == [[1, 1, row]]
    others = np.ones(lse.shape, bool)
    others[1, 1, row] = False
    np.testing.assert_array_equal(out[others], expected[others])


@pytest.mark.parametrize("shape", SHAPES)
def test_nan_in_bias(shape: str, dtype: Dtype) -> None:
    """A NaN bias makes its row NaN, unless the mask hides that key from the row."""
    sizes = SHAPES[shape]
    arrays = sizes.arrays(np.random.default_rng(3), dtype)
    bias = np.zeros((sizes.queries, sizes.keys), dtype)
    mask = np.ones(bias.shape, bool)
    mask[0, 70] = False
    expected = cpuattn.attention(*arrays, bias=bias, mask=mask)
    bias[0, 70] = np.nan
    np.testing.assert_array_equal(cpuattn.attention(*arrays, bias=bias, mask=mask), expected)
    rows = np.isnan(cpuattn.attention(*arrays, bias=bias)).all(axis=-1)
    assert rows[..., 0].all()
    assert not rows[..., 1:].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_infinities_of_both_signs_in_values(shape: str, dtype: Dtype) -> None:
    query, key, value = SHAPES[shape].arrays(np.random.default_rng(4), dtype)
    value[..., 3, 0] = np.inf
    value[..., 200, 1] = -np.inf
    value[..., 3, 2], value[..., 200, 2] = np.inf, -np.inf
    out = cpuattn.attention(query, key, value)
    assert np.isposinf(out[..., 0]).all()
    assert np.isneginf(out[..., 1]).all()
    assert np.isnan(out[..., 2]).all()
    assert np.isfinite(out[..., 3:]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_everything_hidden_is_poison(shape: str) -> None:
    """Rows that see nothing are zeros even if every key and value is NaN."""
    query, key, value = SHAPES[shape].arrays(np.random.default_rng(5), np.float32)
    key[...], value[...] = np.nan, np.nan
    mask = np.zeros((1, 1), bool)
    for options in ({"mask": mask}, {"key_lengths": [0, 0]}, {"bias": np.full((1, 1), -np.inf)}):
        out, lse = cpuattn.attention(query, key, value, **options, return_lse=True)
        np.testing.assert_array_equal(out, np.zeros_like(out))
        assert np.isneginf(lse).all()


@pytest.mark.parametrize("magnitude", [1e18, 1e30, 1e38])
@pytest.mark.parametrize("queries", [1, 40])
def test_averages_of_finite_values_are_finite(queries: int, magnitude: float) -> None:
    query, key, value = Shape(queries, 250).arrays(np.random.default_rng(6), np.float32)
    value = np.sign(value) * np.float32(magnitude)
    out = cpuattn.attention(query, key, value, causal=True)
    assert np.isfinite(out).all()
    assert abs(out).max() <= np.float32(magnitude) * (1 + 1e-5)
