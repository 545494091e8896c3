"""Attention over a KV cache equals attention over all tokens at once, whatever happened between.

Every new buffer is filled with NaN, so whatever reads a token that was never appended shows it.
"""

import doctest
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import oracle
from cache_cases import DV, HKV, HQ, Array, B, D, chunks, poison_new_memory, tokens
from cpuattn import KVCache
from cpuattn.cache import kv_cache


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_new_memory(monkeypatch)


def assert_rows(out: Array, rows: slice, q: Array, k: Array, v: Array, **options: Any) -> None:
    """Assert that out is these rows of the attention of all tokens at once."""
    wide = np.longdouble if q.dtype == np.float64 else np.float64
    exact = oracle.attend(q, k, v, dtype=wide, **options).out[..., rows, :]
    plain = oracle.attend(q, k, v, dtype=q.dtype.type, **options).out[..., rows, :]
    oracle.assert_accurate(out, exact, plain)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [[1] * 12, [7, 1, 1, 1, 2], [3, 0, 9], [130, 1, 1, 70]])
def test_prefill_and_decode_are_rows_of_one_call(sizes: list[int], dtype: Any) -> None:
    q, k, v = tokens(sum(sizes), dtype)
    slopes = 2.0 ** -np.arange(1, HQ + 1)
    kv = KVCache(B, HKV, D, value_dim=DV, dtype=dtype)
    for rows in chunks(sizes):
        kv.append(k[:, :, rows], v[:, :, rows])
        out = kv.attend(q[:, :, rows], causal=True, alibi_slopes=slopes)
        assert_rows(out, rows, q, k, v, causal=True, alibi_slopes=slopes)
    np.testing.assert_array_equal(kv.keys, k)
    np.testing.assert_array_equal(kv.values, v)
    np.testing.assert_array_equal(kv.lengths, [sum(sizes)] * 2)


@pytest.mark.parametrize("window", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("sizes", [[1] * 40, [20, *[1] * 20], [3, 9, 2, 1, 1, 8, 8, 8]])
def test_sliding_window_over_compactions(sizes: list[int], window: int) -> None:
    q, k, v = tokens(40)
    slopes = np.full(HQ, 0.1)
    kv = KVCache(B, HKV, D, value_dim=DV, window=window)
    for rows in chunks(sizes):
        kv.append(k[:, :, rows], v[:, :, rows])
        out = kv.attend(q[:, :, rows], causal=True, alibi_slopes=slopes)
        options = {"causal": True, "window": (window - 1, None), "alibi_slopes": slopes}
        assert_rows(out, rows, q, k, v, **options)
        assert kv.capacity <= 2 * (window - 1) + max(sizes)
    np.testing.assert_array_equal(kv.lengths, [40, 40])
    first = kv.dropped[0]
    assert first <= 40 - min(window, 40)
    np.testing.assert_array_equal(kv.keys, k[:, :, first:])
    if 2 * (window - 1) + max(sizes) < 40:
        assert first > 0


def test_ragged_entries_grow_at_their_own_ends() -> None:
    """Right-padded prefill, then steps in which some entries have no further token."""
    q, k, v = tokens(12, batch=3)
    kv = KVCache(3, HKV, D, value_dim=DV)
    ends = np.zeros(3, int)
    for counts in ([7, 2, 4], [1, 1, 1], [1, 0, 1], [0, 3, 1], [2, 2, 2]):
        chunk = [
            np.full((3, x.shape[1], max(counts), x.shape[3]), np.nan, x.dtype) for x in (q, k, v)
        ]
        for entry, (end, count) in enumerate(zip(ends, counts, strict=True)):
            for padded, x in zip(chunk, (q, k, v), strict=True):
                padded[entry, :, :count] = x[entry, :, end : end + count]
        kv.append(chunk[1], chunk[2], lengths=counts)
        out = kv.attend(chunk[0], causal=True)
        for entry, (end, count) in enumerate(zip(ends, counts, strict=True)):
            own = slice(entry, entry + 1), slice(None), slice(end + count)
            own_rows = slice(end, end + count)
            actual = out[own[0], :, :count]
            assert_rows(actual, own_rows, q[own], k[own], v[own], causal=True)
        ends += counts
        np.testing.assert_array_equal(kv.lengths, ends)
    np.testing.assert_array_equal(kv.keys[1, :, : ends[1]], k[1, :, : ends[1]])


def test_ragged_entries_with_a_sliding_window() -> None:
    q, k, v = tokens(40)
    kv = KVCache(B, HKV, D, value_dim=DV, window=4)
    ends = np.zeros(B, int)
    rng = np.random.default_rng(0)
    while ends.max() < 36:
        counts = rng.integers(0, 3, B)
        padded = [np.stack([x[b, :, ends[b] : ends[b] + 2] for b in range(B)]) for x in (q, k, v)]
        kv.append(padded[1], padded[2], lengths=counts)
        out = kv.attend(padded[0], causal=True)
        for b, (end, count) in enumerate(zip(ends, counts, strict=True)):
            own = slice(b, b + 1), slice(None), slice(end + count)
            actual, rows = out[b : b + 1, :, :count], slice(end, end + count)
            assert_rows(actual, rows, q[own], k[own], v[own], causal=True, window=(3, None))
        ends += counts
    assert (kv.dropped > 0).all()
    assert kv.capacity <= 2 * 3 + 2


@pytest.mark.parametrize("options", [{}, {"window": (2, 0)}], ids=str)
def test_fewer_queries_than_appended_are_the_last_ones(options: dict[str, Any]) -> None:
    q, k, v = tokens(9)
    kv = KVCache(B, HKV, D, value_dim=DV)
    kv.append(k, v, lengths=[9, 5])
    out = kv.attend(np.stack([q[0, :, 8:9], q[1, :, 4:5]]), **options)
    assert_rows(out[:1], slice(8, 9), q[:1], k[:1], v[:1], **options)
    short = q[1:, :, :5], k[1:, :, :5], v[1:, :, :5]
    assert_rows(out[1:], slice(4, 5), *short, **options)


def test_after_truncation_the_last_query_stands_at_the_last_key() -> None:
    q, k, v = tokens(6)
    kv = KVCache(B, HKV, D, value_dim=DV)
    for rows in chunks([5, 1]):
        kv.append(k[:, :, rows], v[:, :, rows])
    kv.truncate(5)
    out = kv.attend(q[:, :, 4:5], window=(1, 0))
    assert_rows(out, slice(4, 5), q, k, v, window=(1, 0))


def test_query_offset_is_a_position() -> None:
    q, k, v = tokens(30)
    kv = KVCache(B, HKV, D, value_dim=DV, window=4, capacity=8)
    for rows in chunks([10] * 3):
        kv.append(k[:, :, rows], v[:, :, rows])
    assert kv.dropped[0] > 0
    start = 19  # the last token before the last append
    out = kv.attend(q[:, :, start : start + 2], causal=True, query_offset=start)
    rows = slice(start, start + 2)
    assert_rows(out, rows, q, k, v, causal=True, window=(3, None))
    with pytest.raises(ValueError, match=r"query: a token at position .* left the window"):
        kv.attend(q[:, :, :2], causal=True, query_offset=start - 1)


def test_options_of_attention_pass_through() -> None:
    q, k, v = tokens(6)
    kv = KVCache(B, HKV, D, value_dim=DV, capacity=16)
    kv.append(k, v)
    mask = np.tri(6, dtype=bool)
    out = np.empty((B, HQ, 6, DV), np.float32)
    result, lse = kv.attend(q, mask=mask, out=out, return_lse=True)
    assert result is out
    assert_rows(out, slice(6), q, k, v, causal=True)
    exact = oracle.attend(q, k, v, causal=True).lse
    np.testing.assert_allclose(lse, exact, rtol=1e-5, atol=1e-6)


def test_rejected_drafts_leave_no_trace() -> None:
    q, k, v = tokens(20)
    draft_q, draft_k, draft_v = tokens(4)
    for window in (None, 6):
        plain, speculative = (KVCache(B, HKV, D, value_dim=DV, window=window) for _ in range(2))
        for rows in chunks([8, *[1] * 12]):
            for kv in (plain, speculative):
                kv.append(k[:, :, rows], v[:, :, rows])
            expected = plain.attend(q[:, :, rows], causal=True)
            actual = speculative.attend(q[:, :, rows], causal=True)
            np.testing.assert_array_equal(actual, expected)
            speculative.append(draft_k, draft_v)
            speculative.attend(draft_q, causal=True)
            speculative.truncate(rows.stop)


def test_entries_accept_different_numbers_of_drafts() -> None:
    q, k, v = tokens(9)
    kv = KVCache(B, HKV, D, value_dim=DV)
    kv.append(k[:, :, :8], v[:, :, :8])
    kv.truncate([8, 5])
    kv.append(k[:, :, 8:], v[:, :, 8:])
    np.testing.assert_array_equal(kv.lengths, [9, 6])
    out = kv.attend(q[:, :, 8:], causal=True)
    kept = [0, 1, 2, 3, 4, 8]
    assert_rows(out[:1], slice(8, 9), q[:1], k[:1], v[:1], causal=True)
    short = q[1:, :, kept], k[1:, :, kept], v[1:, :, kept]
    assert_rows(out[1:], slice(5, 6), *short, causal=True)


def test_truncate_refuses_what_the_window_has_dropped() -> None:
    _, k, v = tokens(30)
    kv = KVCache(B, HKV, D, value_dim=DV, window=4)
    for rows in chunks([1] * 30):
        kv.append(k[:, :, rows], v[:, :, rows])
    first = int(kv.dropped[0])
    assert 0 < first <= 25
    with pytest.raises(ValueError, match=r"n: a token at position 27 .* sees 4 keys"):
        kv.truncate(27)
    np.testing.assert_array_equal(kv.lengths, [30, 30])
    kv.truncate(28)  # its next token sees itself and the three keys that are still there
    np.testing.assert_array_equal(kv.keys, k[:, :, first:28])
    kv.truncate(0)
    np.testing.assert_array_equal(kv.dropped, [0, 0])
    kv.append(k[:, :, :2], v[:, :, :2])
    np.testing.assert_array_equal(kv.keys, k[:, :, :2])


@pytest.mark.parametrize("sink_tokens", [0, 2])
@pytest.mark.parametrize("sizes", [[1] * 30, [7, 1, 9, 1, 1, 3, 8], [30], [2] * 15], ids=str)
def test_refusals_depend_on_what_was_appended_alone(sizes: list[int], sink_tokens: int) -> None:
    """Memory runs out at other times in each cache; the second entry gets fewer tokens."""
    q, k, v = tokens(30)
    options: dict[str, Any] = {"window": 4, "sink_tokens": sink_tokens}
    caches = [KVCache(B, HKV, D, value_dim=DV, capacity=c, **options) for c in (0, 9, 14, 23, 64)]
    for step, rows in enumerate(chunks(sizes)):
        size = rows.stop - rows.start
        counts = [size, size if step % 3 else size // 2]
        for kv in caches:
            kv.append(k[:, :, rows], v[:, :, rows], lengths=counts)
        for n in range(int(caches[0].lengths.min()) + 1):
            asked = [outcome(kv.attend, q[:, :, :1], query_offset=n) for kv in caches]
            assert len(set(asked)) == 1, (n, asked)
            cut = [outcome(kv.copy().truncate, n) for kv in caches]
            assert len(set(cut)) == 1, (n, cut)
        for kv in caches:  # the last token, the one before the last append, and that append again
            for start in (kv.lengths - 1, np.maximum(kv.lengths - counts - 1, 0)):
                kv.attend(q[:, :, :1], causal=True, query_offset=start)
            kv.copy().truncate(kv.lengths - counts)
    assert len(sizes) == 1 or len({int(kv.dropped[0]) for kv in caches}) > 1


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """Give the message of a refusal; empty if there is none."""
    try:
        call(*arguments, **options)
    except ValueError as error:
        return str(error)
    return ""


def test_repr_tells_shape_dtype_and_lengths() -> None:
    kv = KVCache(B, HKV, D, value_dim=DV, capacity=9, window=4, sink_tokens=1, dtype="float16")
    kv.append(*tokens(3)[1:], lengths=[3, 1])
    assert repr(kv) == (
        f"<KVCache batch=2, kv_heads={HKV}, head_dim={D}, value_dim={DV}, capacity=9, window=4, "
        "sink_tokens=1, dtype=float16, lengths=[3, 1]>"
    )
    assert len(repr(KVCache(1000, 1, 1))) < 200


def test_reorder_is_like_having_appended_in_that_order() -> None:
    q, k, v = tokens(10)
    order, counts = [1, 1, 0], np.array([9, 4])
    kv = KVCache(B, HKV, D, value_dim=DV)
    kv.append(k[:, :, :9], v[:, :, :9], lengths=counts)
    kv.reorder(order)
    expected = KVCache(3, HKV, D, value_dim=DV)
    expected.append(k[order][:, :, :9], v[order][:, :, :9], lengths=counts[order])
    assert kv.batch == 3
    np.testing.assert_array_equal(kv.lengths, expected.lengths)
    padded, last = q[order][:, :, :9], slice(9, 10)
    for step in range(2):
        actual = kv.attend(padded, causal=True)
        np.testing.assert_array_equal(actual, expected.attend(padded, causal=True), f"step {step}")
        for either in (kv, expected):
            either.append(k[order][:, :, last], v[order][:, :, last])
        padded = q[order][:, :, last]


def test_growth_is_geometric_and_reserved_room_is_used() -> None:
    _, k, v = tokens(1)
    kv = KVCache(B, HKV, D, value_dim=DV)
    capacities = set()
    for _ in range(1000):
        kv.append(k, v)
        capacities.add(kv.capacity)
    assert len(capacities) <= 11
    assert kv.capacity < 2048
    assert kv.nbytes == B * HKV * kv.capacity * (D + DV) * 4

    reserved = KVCache(B, HKV, D, value_dim=DV, capacity=1000)
    reserved.append(k, v)
    first = reserved.keys
    for _ in range(999):
        reserved.append(k, v)
    assert reserved.capacity == 1000
    assert np.shares_memory(first, reserved.keys)
    assert np.shares_memory(reserved.values, reserved.values)


def test_fixed_capacity_is_never_reallocated() -> None:
    _, k, v = tokens(1)
    kv = KVCache(B, HKV, D, value_dim=DV, capacity=9, max_capacity=9)
    kv.append(k, v)
    first = kv.keys
    for _ in range(8):
        kv.append(k, v)
    assert np.shares_memory(first, kv.keys)
    assert kv.capacity == kv.max_capacity == 9


def test_growth_ends_at_max_capacity() -> None:
    _, k, v = tokens(100)
    kv = KVCache(B, HKV, D, value_dim=DV, max_capacity=100)
    for rows in chunks([1] * 100):
        kv.append(k[:, :, rows], v[:, :, rows])
        assert kv.capacity <= 100
    np.testing.assert_array_equal(kv.keys, k)


@pytest.mark.parametrize("sink_tokens", [0, 2])
def test_a_window_runs_on_within_the_least_capacity(sink_tokens: int) -> None:
    """Every append moves the window; 4 tokens must stay, and the new one needs room."""
    q, k, v = tokens(40)
    fixed: dict[str, Any] = {"capacity": 5 + sink_tokens, "max_capacity": 5 + sink_tokens}
    kv = KVCache(B, HKV, D, value_dim=DV, window=5, sink_tokens=sink_tokens, **fixed)
    for rows in chunks([1] * 40):
        kv.append(k[:, :, rows], v[:, :, rows])
        distance = np.arange(40)[rows, None] - np.arange(40)
        mask = (distance >= 0) & ((distance < 5) | (np.arange(40) < sink_tokens))
        out = kv.attend(q[:, :, rows], causal=True)
        exact = oracle.attend(q[:, :, rows], k, v, mask=mask).out
        plain = oracle.attend(q[:, :, rows], k, v, mask=mask, dtype=np.float32).out
        oracle.assert_accurate(out, exact, plain)
    assert kv.capacity == 5 + sink_tokens


def test_copies_go_separate_ways() -> None:
    q, k, v = tokens(12)
    other = tokens(12, seed=1)[1]
    choices: list[dict[str, Any]] = [{}, {"window": 3}, {"window": 3, "sink_tokens": 2}]
    for options in choices:
        kv = KVCache(B, HKV, D, value_dim=DV, **options)
        kv.append(k[:, :, :9], v[:, :, :9], lengths=[9, 4])
        first = kv.attend(q[:, :, :9], causal=True)
        copied = kv.copy()
        assert copied.capacity == kv.capacity
        np.testing.assert_array_equal(copied.attend(q[:, :, :9], causal=True), first)
        before = kv.keys.copy()
        copied.append(other[:, :, 9:], v[:, :, 9:])
        copied.truncate([10, 4])
        np.testing.assert_array_equal(kv.keys, before)
        np.testing.assert_array_equal(kv.lengths, [9, 4])
        np.testing.assert_array_equal(kv.attend(q[:, :, :9], causal=True), first)
        kv.append(k[:, :, 9:], v[:, :, 9:])
        kv.truncate([10, 4])
        np.testing.assert_array_equal(copied.keys[0, :, -1], other[0, :, 9])
        np.testing.assert_array_equal(kv.keys[0, :, -1], k[0, :, 9])


def test_compaction_moves_each_token_about_once() -> None:
    _, k, v = tokens(1)
    kv = KVCache(B, HKV, D, value_dim=DV, window=50)
    compactions, dropped = 0, 0
    for _ in range(2000):
        kv.append(k, v)
        compactions += int(kv.dropped[0] != dropped)
        dropped = int(kv.dropped[0])
    assert 0 < compactions * 49 <= 2000


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(kv_cache)
    assert result.attempted >= 6
    assert result.failed == 0
