"""What append writes, bit by bit, against NumPy's conversions and quantize_int8."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cache_cases import DTYPES, FLOATS, Array, dtype_of
from cpuattn import KVCache, PagedKVCache, quantize_int8
from cpuattn._dtypes import one_rounding

HEADS, LENGTH = 3, 4
WIDTHS = (1, 7, 8, 16, 33, 128, 513, 1031)  # of less than a vector, and of several pieces


def numbers(shape: tuple[int, ...], name: str) -> Array:
    """Give numbers of all magnitudes, ties and what is not finite, the last in few rows."""
    rng = np.random.default_rng(shape[-1])
    x = rng.standard_normal(shape)
    x *= 2.0 ** rng.choice([-140, -130, -25, -15, 0, 0, 0, 0, 10, 15], (*shape[:-1], 1))
    ties = 1 + np.array([2.0**-11, 3 * 2.0**-11, 2.0**-8, 3 * 2.0**-8]) + 2.0**-30
    x.flat[:: shape[-1] * 2] = rng.choice([0.0, -0.0, 1e-45, 65519.9, *ties, *-ties])
    edges = [np.inf, -np.inf, np.nan, 65520, 3.4e38, -7e4, 1e300, 2.0**-150, 2.0**-25]
    rows = x.reshape(-1, shape[-1])
    for row, edge in zip(rows[::-1], edges, strict=False):
        row[-1] = edge
    with np.errstate(over="ignore"):
        return x.astype(dtype_of(name))


def by_numpy(x: Array, name: str) -> list[Array]:
    """Give what a cache of this dtype holds of x, and its scales if it is int8."""
    if name == "int8":
        return list(quantize_int8(x))
    with np.errstate(over="ignore"):
        return [one_rounding(x, dtype_of(name)).astype(dtype_of(name))]


def assert_same_bits(actual: Array, expected: Array) -> None:
    """Compare all bits, but those that tell one NaN from another."""
    assert actual.dtype == expected.dtype
    nan = np.isnan(expected.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(actual.astype(np.float64)), nan)
    actual, expected = (np.where(nan, np.zeros((), x.dtype), x) for x in (actual, expected))
    bits = np.dtype(f"u{expected.dtype.itemsize}")
    np.testing.assert_array_equal(actual.view(bits), expected.view(bits))


def held(kv: KVCache | PagedKVCache, part: str) -> list[Array]:
    """Give the keys or values of a cache, and their scales if there are any."""
    scales = kv.key_scales if part == "keys" else kv.value_scales
    array = kv.keys if part == "keys" else kv.values
    return [array] if scales is None else [array, scales]


def spread(x: Array, step: int) -> Array:
    """Give equal numbers that lie `step` apart along the last axis."""
    return np.repeat(x, step, axis=-1)[..., ::step]


def misaligned(x: Array) -> Array:
    """Give equal numbers at odd addresses."""
    memory = np.zeros(x.nbytes + 1, np.uint8)[1:]
    memory[:] = np.frombuffer(x.tobytes(), np.uint8)
    return memory.view(x.dtype).reshape(x.shape)


def read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": np.ascontiguousarray,
    "tokens first": lambda x: x.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3),
    "dims first": np.asfortranarray,
    "spread": lambda x: spread(x, 3),
    "backwards": lambda x: x[..., ::-1].copy()[..., ::-1],
    "rows backwards": lambda x: x[:, ::-1, ::-1].copy()[:, ::-1, ::-1],
    "misaligned": misaligned,
    "read-only": read_only,
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("appended", FLOATS)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.usefixtures("isa")
def test_every_bit_is_numpys(name: str, appended: str) -> None:
    for dim in WIDTHS:
        key, value = (numbers((2, HEADS, LENGTH, d), appended) for d in (dim, 5))
        expected = by_numpy(key, name), by_numpy(value, name)
        for lay in LAYOUTS.values():
            kv = KVCache(2, HEADS, dim, value_dim=5, capacity=LENGTH, dtype=dtype_of(name))
            kv.append(lay(key)[:, :, :1], lay(value)[:, :, :1])
            kv.append(lay(key)[:, :, 1:], lay(value)[:, :, 1:])
            paged = PagedKVCache(4, 3, HEADS, dim, value_dim=5, dtype=dtype_of(name))
            paged.append([paged.add(), paged.add()], lay(key), lay(value))
            for part, wanted in zip(("keys", "values"), expected, strict=True):
                for got, pages, want in zip(held(kv, part), held(paged, part), wanted, strict=True):
                    assert_same_bits(got, want)
                    assert_same_bits(pages[[0, 2]], want[:, :, :3])
                    assert_same_bits(pages[[1, 3], :, :1], want[:, :, 3:])


@pytest.mark.parametrize("name", DTYPES)
def test_arrays_of_other_byte_order_and_one_number_for_all(name: str) -> None:
    key = numbers((1, HEADS, LENGTH, 8), "float64").clip(-6e4, 6e4)
    for same in (key.astype(">f8"), key.astype("<f8")):
        kv = KVCache(1, HEADS, 8, dtype=dtype_of(name))
        kv.append(same, np.broadcast_to(np.float32(1.5), key.shape))
        for got, want in zip(held(kv, "keys"), by_numpy(key, name), strict=True):
            assert_same_bits(got, want)
        ones = by_numpy(np.full(key.shape, 1.5, np.float32), name)
        for got, want in zip(held(kv, "values"), ones, strict=True):
            assert_same_bits(got, want)


@pytest.mark.parametrize("capacity", [0, 2])
@pytest.mark.parametrize("name", DTYPES)
def test_nothing_is_appended_of_nothing(name: str, capacity: int) -> None:
    kv = KVCache(2, HEADS, 8, capacity=capacity, dtype=dtype_of(name))
    empty = np.zeros((2, HEADS, 0, 8), np.float32)
    kv.append(empty, empty)
    kv.append(empty, empty, lengths=0)
    assert kv.lengths.tolist() == [0, 0]


@pytest.mark.parametrize("name", DTYPES)
def test_memory_stays_within_capacity(name: str) -> None:
    kv = KVCache(1, HEADS, 8, capacity=9, dtype=dtype_of(name))
    token = numbers((1, HEADS, 1, 8), "float16")
    addresses = [array.ctypes.data for array in kv._state.arrays.every]
    for _ in range(9):
        kv.append(token, token)
    assert [array.ctypes.data for array in kv._state.arrays.every] == addresses
    assert kv.capacity == 9
    for got, want in zip(held(kv, "keys"), by_numpy(token, name), strict=True):
        assert_same_bits(got, np.repeat(want, 9, axis=2))


def tokens_of(kv: KVCache, rows: slice) -> tuple[Array, Array]:
    return kv.keys[:, :, rows], kv.values[:, :, rows]


def float_cache(batch: int = 1, **options: Any) -> tuple[KVCache, Array, Array]:
    """Give a full cache of 8 tokens, and its keys and values."""
    key, value = np.random.default_rng(0).standard_normal((2, batch, HEADS, 8, 4), np.float32)
    kv = KVCache(batch, HEADS, 4, capacity=8, **options)
    kv.append(key, value)
    return kv, key, value


def test_tokens_may_lie_where_they_are_written() -> None:
    kv, key, value = float_cache()
    old_keys, old_values = tokens_of(kv, slice(2, 6))
    kv.truncate(4)
    kv.append(old_keys, old_values)
    np.testing.assert_array_equal(kv.keys[:, :, 4:], key[:, :, 2:6])
    np.testing.assert_array_equal(kv.values[:, :, 4:], value[:, :, 2:6])


def test_keys_may_become_values_and_values_keys() -> None:
    kv, key, value = float_cache()
    old_keys, old_values = tokens_of(kv, slice(4, 8))
    kv.truncate(4)
    kv.append(old_values, old_keys)
    np.testing.assert_array_equal(kv.keys[:, :, 4:], value[:, :, 4:])
    np.testing.assert_array_equal(kv.values[:, :, 4:], key[:, :, 4:])


@pytest.mark.parametrize("lengths", [None, [3, 2]], ids=str)
def test_entries_may_change_places(lengths: list[int] | None) -> None:
    kv, key, value = float_cache(batch=2)
    old_keys, old_values = tokens_of(kv, slice(4, 7))
    kv.truncate([4, 5])
    kv.append(old_keys[::-1], old_values[::-1], lengths=lengths)
    for entry, (start, count) in enumerate(zip([4, 5], lengths or [3, 3], strict=True)):
        rows = slice(start, start + count)
        taken = slice(4, 4 + count)
        np.testing.assert_array_equal(kv.keys[entry, :, rows], key[1 - entry, :, taken])
        np.testing.assert_array_equal(kv.values[entry, :, rows], value[1 - entry, :, taken])


@pytest.mark.parametrize("sink_tokens", [0, 1])
def test_tokens_may_lie_where_the_window_moves_to(sink_tokens: int) -> None:
    kv, key, value = float_cache(max_capacity=8, window=4, sink_tokens=sink_tokens)
    kv.append(*tokens_of(kv, slice(1, 3)))
    np.testing.assert_array_equal(kv.keys[:, :, -2:], key[:, :, 1:3])
    np.testing.assert_array_equal(kv.values[:, :, -2:], value[:, :, 1:3])
    assert kv.dropped.tolist() == [4 - sink_tokens]


def overflows_in_numpy(x: Array, name: str) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one_rounding(x, dtype_of(name)).astype(dtype_of(name))
    return [str(warning.message) for warning in caught] == ["overflow encountered in cast"]


@pytest.mark.parametrize("appended", FLOATS)
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.usefixtures("isa")
def test_overflow_is_told_as_numpy_tells_it(name: str, appended: str) -> None:
    limit = float(np.finfo(np.float32).max)
    for x in (65504.0, 65519.9, 65520.0, 3.39e38, limit, limit * (1 + 2.0**-25), 1e300, np.inf):
        with np.errstate(over="ignore"):
            token = np.full((1, 1, 1, 9), -x).astype(dtype_of(appended))
        kv = KVCache(1, 1, 9, capacity=2, dtype=dtype_of(name))
        told = overflows_in_numpy(token, name)
        for lengths in (None, 1):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                kv.append(token, np.zeros_like(token), lengths=lengths)
            assert [str(warning.message) for warning in caught] == [
                "overflow encountered in cast"
            ] * told
        assert kv.lengths.tolist() == [2]


def test_an_overflow_that_raises_appends_nothing() -> None:
    kv = KVCache(1, 1, 2, capacity=4, dtype="float16")
    kv.append(np.ones((1, 1, 1, 2)), np.ones((1, 1, 1, 2)))
    large = np.full((1, 1, 1, 2), 1e6, np.float32)
    for tokens in ((large, np.ones_like(large)), (np.ones_like(large), large)):
        with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
            kv.append(*tokens)
    assert kv.lengths.tolist() == [1]
    assert kv.keys.ravel().tolist() == kv.values.ravel().tolist() == [1, 1]


@pytest.mark.parametrize("name", DTYPES)
def test_caches_start_at_a_cache_line(name: str) -> None:
    dtype = dtype_of(name)
    growing, pages = KVCache(2, HEADS, 40, dtype=dtype), PagedKVCache(2, 3, HEADS, 40, dtype=dtype)
    x = np.zeros((2, HEADS, 5, 40), np.float64 if name == "float64" else np.float32)
    arrays = [pages.keys, pages.values]
    for _ in range(8):  # through several buffers
        growing.append(x, x)
        arrays += [growing.keys, growing.values]
    assert {array.ctypes.data % 64 for array in arrays} == {0}
