"""Every argument of KVCache that is refused, and that nothing has changed then."""

from typing import Any

import numpy as np
import pytest

from cpuattn import CacheFullError, KVCache

B, HKV, D, DV = 2, 2, 8, 5
KEY, VALUE = np.ones((B, HKV, 3, D), np.float32), np.ones((B, HKV, 3, DV), np.float32)
QUERY = np.ones((B, 4, 3, D), np.float32)
MASK = np.ones(4, bool)


def bad_append(**changed: Any) -> Any:
    arguments = {"key": np.zeros((B, HKV, 3, D)), "value": np.zeros((B, HKV, 3, DV)), **changed}
    return lambda: KVCache(B, HKV, D, value_dim=DV, dtype="float64").append(**arguments)


def filled(**options: Any) -> KVCache:
    kv = KVCache(B, HKV, D, value_dim=DV, **options)
    kv.append(KEY, VALUE)
    return kv


def bad_sinks(query: Any = QUERY, **options: Any) -> Any:
    return lambda: filled(window=3, sink_tokens=2).attend(query, **options)


BAD: list[tuple[type[Exception], str, Any]] = [
    (TypeError, "batch must be an integer, got 1.5", lambda: KVCache(1.5, 1, 1)),  # type: ignore[arg-type]
    (ValueError, "kv_heads must be at least 1, got 0", lambda: KVCache(1, 0, 1)),
    (ValueError, "capacity must be at least 0", lambda: KVCache(1, 1, 1, capacity=-1)),
    (ValueError, "window must be at least 1", lambda: KVCache(1, 1, 1, window=0)),
    (ValueError, "max_capacity must be at least 9", lambda: filled(capacity=9, max_capacity=8)),
    (ValueError, "max_capacity must be at least 1", lambda: KVCache(1, 1, 1, max_capacity=0)),
    (ValueError, "sink_tokens must be at least 0", lambda: filled(window=2, sink_tokens=-1)),
    (ValueError, "sink_tokens=2 needs a window", lambda: filled(sink_tokens=2)),
    (
        TypeError,
        "dtype must be float32, .* or int8, got 'i4'",
        lambda: KVCache(1, 1, 1, dtype="i4"),
    ),
    (TypeError, "dtype .* got 'nonsense'", lambda: KVCache(1, 1, 1, dtype="nonsense")),
    (TypeError, "key must be float32, .* got int8", bad_append(key=np.zeros((B, HKV, 3, D), "i1"))),
    (
        TypeError,
        "value must be .* got (longdouble|float128)",
        bad_append(value=np.zeros(3, np.longdouble)),
    ),
    (TypeError, "key .* got int8", lambda: filled(dtype="int8").append(KEY.astype("i1"), VALUE)),
    (ValueError, r"key .* \(2, 2, any, 8\), got \(3, 8\)", bad_append(key=np.zeros((3, D)))),
    (ValueError, r"key .*, got \(1, 1, 1", bad_append(key=np.zeros((1,) * 17))),
    (ValueError, r"value .* \(2, 2, 3, 5\)", bad_append(value=np.zeros((B, HKV, 2, DV)))),
    (TypeError, "value is of type list", bad_append(value=[0.0])),
    (TypeError, "lengths has dtype float64; it must be integers", bad_append(lengths=[1.0, 2.0])),
    (ValueError, r"lengths must .* shape \(2,\), got \(3,\)", bad_append(lengths=[1, 2, 3])),
    (ValueError, r"lengths must be from 0 to 3, got \[4, 0\]", bad_append(lengths=[4, 0])),
    (ValueError, r"lengths must be from 0 to 3, got \[1, -1\]", bad_append(lengths=[1, -1])),
    (TypeError, "key_lengths: the cache", lambda: filled().attend(QUERY, key_lengths=[1, 1])),
    (
        TypeError,
        "key_scale: the cache",
        lambda: filled(dtype="int8").attend(QUERY, key_scale=[1.0]),
    ),
    (ValueError, "mask", bad_sinks(mask=MASK)),
    (ValueError, r"out .*\(2, 4, 3, 4\)", bad_sinks(out=np.zeros((2, 4, 3, 4), "f4"))),
    (TypeError, "out has dtype int8", bad_sinks(out=np.zeros((2, 4, 3, 5), "i1"))),
    (ValueError, "query", bad_sinks(query=QUERY[..., :7])),
    (TypeError, "window: the cache", lambda: filled(window=3).attend(QUERY, window=1)),
    (ValueError, "query_offset must .* shape", lambda: filled().attend(QUERY, query_offset=[1])),
    (ValueError, "n must be from 0 to .* 3, got 4", lambda: filled().truncate(4)),
    (ValueError, "n must be from 0 to .* 3, got -1", lambda: filled().truncate([0, -1])),
    (ValueError, "batch_indices must be from 0 to 1", lambda: filled().reorder([0, 2])),
    (ValueError, "batch_indices must have shape", lambda: filled().reorder(0)),
    (TypeError, "batch_indices has dtype float64", lambda: filled().reorder([0.0])),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD)
def test_errors_name_the_argument(error: type[Exception], message: str, call: Any) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_refused_append_changes_nothing() -> None:
    kv = filled()
    before = kv.keys.copy()
    with pytest.raises(ValueError, match="lengths"):
        kv.append(KEY, VALUE, lengths=[1, 9])
    np.testing.assert_array_equal(kv.lengths, [3, 3])
    np.testing.assert_array_equal(kv.keys, before)


@pytest.mark.parametrize("options", [{}, {"window": 4}, {"window": 3, "sink_tokens": 1}], ids=str)
@pytest.mark.parametrize("capacity", [0, 4])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_full_cache_refuses_and_keeps_everything(
    dtype: str, capacity: int, options: dict[str, Any]
) -> None:
    kv = filled(dtype=dtype, capacity=capacity, max_capacity=4, **options)
    before, room = kv.attend(QUERY, causal=True), kv.capacity
    with pytest.raises(CacheFullError, match=r"key: with 2 more tokens entry 1 .* 5, .* is 4"):
        kv.append(KEY, VALUE, lengths=[1, 2])
    np.testing.assert_array_equal(kv.lengths, [3, 3])
    assert kv.capacity == room
    np.testing.assert_array_equal(kv.attend(QUERY, causal=True), before)
    kv.append(KEY, VALUE, lengths=[1, 0])
    np.testing.assert_array_equal(kv.lengths, [4, 3])


def test_an_append_that_overflows_under_strict_numpy_changes_nothing() -> None:
    kv = filled(dtype="float16")
    before = kv.keys.copy()
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
        kv.append(KEY * 1e6, VALUE)
    np.testing.assert_array_equal(kv.lengths, [3, 3])
    np.testing.assert_array_equal(kv.keys, before)
