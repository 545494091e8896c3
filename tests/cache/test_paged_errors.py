"""Every argument of PagedKVCache that is refused, and that nothing has changed then."""

from typing import Any

import numpy as np
import pytest

from cache_cases import Array
from cpuattn import CacheFullError, OutOfPagesError, PagedKVCache
from cpuattn.cache.page_sequence import Growth

HKV, D, DV = 2, 8, 5
KEY, VALUE = np.ones((1, HKV, 3, D), np.float32), np.ones((1, HKV, 3, DV), np.float32)
QUERY = np.ones((1, 4, 3, D), np.float32)


def filled(num_pages: int = 4, **options: Any) -> PagedKVCache:
    """Give a cache whose sequence 0 has 3 tokens, and whose sequence 1 is a fork of it."""
    cache = PagedKVCache(num_pages, 2, HKV, D, value_dim=DV, **options)
    cache.append([cache.add()], KEY, VALUE)
    cache.fork(0)
    return cache


def bad_append(seq_ids: Any = (0,), key: Any = KEY, value: Any = VALUE, **options: Any) -> Any:
    return lambda: filled().append(seq_ids, key, value, **options)


def bad_attend(seq_ids: Any = (0,), query: Any = QUERY, **options: Any) -> Any:
    return lambda: filled().attend(query, seq_ids, **options)


BAD: list[tuple[type[Exception], str, Any]] = [
    (ValueError, "num_pages must be at least 1, got 0", lambda: PagedKVCache(0, 1, 1, 1)),
    (TypeError, "page_size must be an integer", lambda: PagedKVCache(1, 1.5, 1, 1)),  # type: ignore[arg-type]
    (ValueError, "kv_heads must be at least 1", lambda: PagedKVCache(1, 1, 0, 1)),
    (ValueError, "head_dim must be at least 1", lambda: PagedKVCache(1, 1, 1, 0)),
    (ValueError, "value_dim must be at least 1", lambda: PagedKVCache(1, 1, 1, 1, value_dim=0)),
    (TypeError, "dtype must be .* or int8, got 'c8'", lambda: PagedKVCache(1, 1, 1, 1, dtype="c8")),
    (ValueError, "seq_ids: there is no sequence 2", bad_append([2])),
    (ValueError, r"seq_ids must have shape \(n,\) with n > 0, got \(\)", bad_append(0)),
    (ValueError, r"seq_ids must have shape \(n,\) with n > 0, got \(0,\)", bad_append([])),
    (ValueError, r"seq_ids must name each sequence once, got \[0 0\]", bad_append([0, 0])),
    (TypeError, "seq_ids has dtype float64; it must be integers", bad_append([0.0])),
    (ValueError, r"key must have shape \(2, 2, any, 8\)", bad_append([0, 1])),
    (ValueError, r"key .* \(1, 2, any, 8\), got \(1, 2, 3, 5\)", bad_append(key=VALUE)),
    (ValueError, r"value must have shape \(1, 2, 3, 5\)", bad_append(value=KEY)),
    (TypeError, "value must be float32, .* got int64", bad_append(value=VALUE.astype(int))),
    (ValueError, r"lengths must be from 0 to 3, got \[4\]", bad_append(lengths=4)),
    (ValueError, r"lengths must be from 0 to 3, got \[-1\]", bad_append(lengths=[-1])),
    (ValueError, "lengths must be an int or have shape", bad_append(lengths=[1, 1])),
    (TypeError, "block_table, key_lengths: the cache", bad_attend(key_lengths=1, block_table=1)),
    (ValueError, "seq_ids: there is no sequence 9", bad_attend([0, 9])),
    (ValueError, "query_offset must .* shape", bad_attend(query_offset=[1, 2])),
    (TypeError, "query is of type list", bad_attend(query=[0.0])),
    (ValueError, "seq_id: there is no sequence 5", lambda: filled().fork(5)),
    (ValueError, "seq_id must be at least 0, got -1", lambda: filled().free(-1)),
    (TypeError, "seq_id must be an integer", lambda: filled().fork("a")),  # type: ignore[arg-type]
    (ValueError, "n must be from 0 to the length, 3, got 4", lambda: filled().truncate(0, 4)),
    (ValueError, "n must be at least 0, got -1", lambda: filled().truncate(0, -1)),
    (ValueError, "seq_ids: there is no sequence 7", lambda: filled().block_table([7])),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD)
def test_errors_name_the_argument(error: type[Exception], message: str, call: Any) -> None:
    with pytest.raises(error, match=message):
        call()


def state(cache: PagedKVCache) -> tuple[dict[int, int], int, list[Any], list[Array]]:
    """Copy all that a sequence can notice."""
    table = cache.block_table(list(cache.lengths))
    used = sorted(set(table.ravel().tolist()))
    pages = [x[used].copy() for x in (cache.keys, cache.values)]
    return cache.lengths, cache.free_pages, table.tolist(), pages


def assert_same_state(actual: Any, expected: Any) -> None:
    assert actual[:3] == expected[:3]
    for x, y in zip(actual[3], expected[3], strict=True):
        np.testing.assert_array_equal(x[:, :, 0], y[:, :, 0])  # row 1 of a last page is free


def two(x: Array) -> Array:
    return x.repeat(2, axis=0)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_out_of_pages_leaves_every_sequence_as_it_was(dtype: str) -> None:
    cache = filled(dtype=dtype)
    before = state(cache)
    for lengths, needed in (([2, 1], 3), ([3, 3], 4), ([1, 2], 3)):
        with pytest.raises(OutOfPagesError, match=f"{needed} more pages needed, but only 2 of 4"):
            cache.append([0, 1], two(KEY), two(VALUE), lengths=lengths)
        assert_same_state(state(cache), before)
    cache.append([0, 1], two(KEY), two(VALUE), lengths=[1, 1])
    assert cache.lengths == {0: 4, 1: 4}
    assert issubclass(OutOfPagesError, CacheFullError)
    assert issubclass(CacheFullError, MemoryError)


def test_a_refused_append_takes_no_page() -> None:
    cache = filled(dtype="float16")
    before = state(cache)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
        cache.append([0, 1], two(KEY) * [[[[1]]], [[[1e6]]]], two(VALUE), lengths=1)
    assert_same_state(state(cache), before)
    cache.append([0, 1], two(KEY), two(VALUE), lengths=1)
    assert cache.free_pages == 1  # a full page shared, and two that only one sequence holds


def test_an_interrupted_append_takes_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled()
    before = state(cache)

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Growth, "moves", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.append([0], KEY, VALUE)
    assert_same_state(state(cache), before)


def test_a_freed_id_is_unknown_and_never_given_again() -> None:
    cache = filled()
    cache.free(1)
    with pytest.raises(ValueError, match="seq_id: there is no sequence 1"):
        cache.free(1)
    assert cache.add() == 2
