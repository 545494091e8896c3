"""A window with sink tokens equals one call over all tokens with the mask that defines it."""

from typing import Any

import numpy as np
import pytest

import oracle
from cache_cases import DV, HKV, HQ, Array, B, D, chunks, dtype_of, poison_new_memory, tokens
from cpuattn import KVCache

LENGTH = 40
SIZES = {
    "decode": [1] * LENGTH,
    "prefill": [20, *[1] * 20],
    "chunks": [3, 9, 2, 1, 1, 8, 8, 8],
    "whole": [LENGTH],
}


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_new_memory(monkeypatch)


def seen(window: int, sinks: int, *, causal: bool = True) -> Array:
    """Tell which token (column) the query of a token (row) sees."""
    distance = np.arange(LENGTH)[:, None] - np.arange(LENGTH)
    visible: Array = (distance < window) | (np.arange(LENGTH) < sinks)
    return visible & (distance >= 0) if causal else visible


def held_tokens(kv: KVCache, entry: int = 0) -> Array:
    """Give the position of each row of `keys`."""
    rows = np.arange(kv.keys.shape[2])
    return np.where(rows < kv.sink_tokens, rows, rows + kv.dropped[entry])


def assert_rows(out: Array, q: Array, k: Array, v: Array, **options: Any) -> None:
    """Assert that this is the attention of q over all of k."""
    wide = np.longdouble if q.dtype == np.float64 else np.float64
    exact = oracle.attend(q, k, v, dtype=wide, **options).out
    plain = oracle.attend(q, k, v, dtype=q.dtype.type, **options).out
    oracle.assert_accurate(out, exact, plain)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("window", "sinks"), [(1, 1), (5, 1), (4, 3), (2, 12), (50, 4), (7, 60)])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_decode_and_prefill(sizes: list[int], window: int, sinks: int, dtype: Any) -> None:
    q, k, v = tokens(LENGTH, dtype)
    kv = KVCache(B, HKV, D, value_dim=DV, window=window, sink_tokens=sinks, dtype=dtype)
    for rows in chunks(sizes):
        kv.append(k[:, :, rows], v[:, :, rows])
        out = kv.attend(q[:, :, rows], causal=True)
        mask = seen(window, sinks)[rows]
        assert_rows(out, q[:, :, rows], k, v, mask=mask)
        assert kv.capacity <= max(sinks + 2 * (window - 1) + max(sizes), 1)
    np.testing.assert_array_equal(kv.keys, k[:, :, held_tokens(kv)])
    np.testing.assert_array_equal(kv.values, v[:, :, held_tokens(kv)])
    if len(sizes) > 1 and sinks + 2 * (window - 1) + max(sizes) < LENGTH:
        assert kv.dropped[0] > 0


RNG = np.random.default_rng(0)
OPTIONS: dict[str, dict[str, Any]] = {
    "alibi": {"alibi_slopes": np.full(HQ, 0.1)},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": RNG.standard_normal(HQ)},
    "bias": {"bias": RNG.standard_normal((HQ, LENGTH, LENGTH)).astype(np.float32)},
    "bias of no key": {"bias": np.ones((HQ, LENGTH, 1), np.float32)},
    "mask": {"mask": RNG.random((B, 1, LENGTH, LENGTH)) < 0.5},
    "segments": {
        "query_segments": RNG.integers(0, 2, (B, LENGTH)),
        "key_segments": RNG.integers(0, 2, (B, LENGTH)),
    },
    "not causal": {"causal": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sizes", [SIZES["prefill"], SIZES["chunks"]], ids=["prefill", "chunks"])
def test_options_count_positions_and_keys_held(sizes: list[int], options: dict[str, Any]) -> None:
    q, k, v = tokens(LENGTH)
    causal = options.get("causal", True)
    kv = KVCache(B, HKV, D, value_dim=DV, window=5, sink_tokens=3)
    for rows in chunks(sizes):
        kv.append(k[:, :, rows], v[:, :, rows])
        passed, whole = {"causal": causal, **options}, dict(options)
        keys = held_tokens(kv)
        for name, x in options.items():
            if name == "query_segments":
                passed[name] = whole[name] = x[:, rows]
            elif name == "key_segments":
                passed[name], whole[name] = x[:, keys], x[:, : rows.stop]
            elif name in ("mask", "bias"):
                cut = x[..., rows, :]
                passed[name] = cut[..., keys] if x.shape[-1] > 1 else cut
                whole[name] = cut[..., : rows.stop]
        visible = seen(5, 3, causal=causal)[rows, : rows.stop]
        whole |= {"mask": visible & whole.get("mask", True), "causal": False}
        out, lse = kv.attend(q[:, :, rows], return_lse=True, **passed)
        own = k[:, :, : rows.stop], v[:, :, : rows.stop]
        assert_rows(out, q[:, :, rows], *own, **whole)
        exact = oracle.attend(q[:, :, rows], *own, **whole).lse
        np.testing.assert_allclose(lse, exact, rtol=1e-5, atol=1e-6)
    assert kv.dropped[0] > 0


def test_entries_of_different_lengths() -> None:
    q, k, v = tokens(LENGTH, batch=3)
    kv = KVCache(3, HKV, D, value_dim=DV, window=4, sink_tokens=6)
    ends = np.zeros(3, int)
    while ends.max() < LENGTH - 2:
        counts = np.array([2, 1, len(kv.lengths) > 2 and ends[0] > 20])
        padded = [np.stack([x[b, :, ends[b] : ends[b] + 2] for b in range(3)]) for x in (q, k, v)]
        kv.append(padded[1], padded[2], lengths=counts)
        out = kv.attend(padded[0], causal=True)
        for b, (end, count) in enumerate(zip(ends, counts, strict=True)):
            rows = slice(end, end + count)
            own = slice(b, b + 1)
            mask = seen(4, 6)[rows]
            assert_rows(out[own, :, :count], q[own, :, rows], k[own], v[own], mask=mask)
        ends += counts
    np.testing.assert_array_equal(kv.lengths, ends)
    assert (kv.dropped > 0).tolist() == [True, True, False]


def test_out_is_written_and_an_empty_cache_gives_zeros() -> None:
    q, k, v = tokens(6)
    kv = KVCache(B, HKV, D, value_dim=DV, window=3, sink_tokens=2)
    out, lse = kv.attend(q, return_lse=True)
    assert not out.any()
    assert (lse == -np.inf).all()
    kv.append(k, v)
    expected, expected_lse = kv.attend(q, causal=True, return_lse=True)
    out = np.empty((B, 6, HQ, DV), np.float32).swapaxes(1, 2)
    result, lse = kv.attend(q, causal=True, out=out, return_lse=True)
    assert result is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(lse, expected_lse)


def test_a_nan_shows_where_it_is_seen_and_nowhere_else() -> None:
    q, k, v = tokens(LENGTH)
    kv = KVCache(B, HKV, D, value_dim=DV, window=4, sink_tokens=2, capacity=LENGTH)
    v[:, :, [1, 9]] = np.nan
    kv.append(k, v)
    bad = np.isnan(kv.attend(q, causal=True)).all(axis=(0, 1, 3))
    np.testing.assert_array_equal(bad, seen(4, 2)[:, [1, 9]].any(axis=-1))
    assert bad.sum() == LENGTH - 1
    mask = np.arange(LENGTH) != 1
    bad = np.isnan(kv.attend(q, causal=True, mask=mask)).all(axis=(0, 1, 3))
    np.testing.assert_array_equal(bad, seen(4, 2)[:, 9])


def test_truncation_to_the_sinks_is_always_possible() -> None:
    q, k, v = tokens(LENGTH)
    kv = KVCache(B, HKV, D, value_dim=DV, window=4, sink_tokens=5)
    for rows in chunks([1] * LENGTH):
        kv.append(k[:, :, rows], v[:, :, rows])
    first = LENGTH - 5
    with pytest.raises(ValueError, match=f"n: a token at .* before position {first} left"):
        kv.truncate(first + 2)
    np.testing.assert_array_equal(kv.lengths, [LENGTH] * B)
    kv.truncate([first + 3, 4])
    assert 0 < kv.dropped[0] <= first - 5
    assert kv.dropped[1] == 0
    for entry, start in enumerate((first + 3, 4)):
        chunk = [x[:, :, start : start + 1] for x in (q, k, v)]
        fresh = kv.copy()
        fresh.append(chunk[1], chunk[2])
        out = fresh.attend(chunk[0], causal=True)[entry : entry + 1]
        own = slice(entry, entry + 1)
        mask = seen(4, 5)[start : start + 1]
        assert_rows(out, chunk[0][own], k[own], v[own], mask=mask)


def test_a_query_that_would_see_dropped_keys_is_refused() -> None:
    q, k, v = tokens(LENGTH)
    kv = KVCache(B, HKV, D, value_dim=DV, window=4, sink_tokens=5)
    for rows in chunks([1] * LENGTH):
        kv.append(k[:, :, rows], v[:, :, rows])
    start = LENGTH - 2
    out = kv.attend(q[:, :, start : start + 1], causal=True, query_offset=start)
    assert_rows(out, q[:, :, start : start + 1], k, v, mask=seen(4, 5)[start : start + 1])
    with pytest.raises(ValueError, match="query: a token at position"):
        kv.attend(q[:, :, :1], causal=True, query_offset=start - 1)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_16_bit_results_are_rounded_once_after_the_merge(name: str) -> None:
    q, k, v = tokens(LENGTH, dtype_of(name))
    kv = KVCache(B, HKV, D, value_dim=DV, window=4, sink_tokens=2, dtype=name)
    kv.append(k, v)
    out = kv.attend(q, causal=True)
    wide = np.empty(out.shape, np.float32)
    kv.attend(q, causal=True, out=wide)
    np.testing.assert_array_equal(out, wide.astype(out.dtype))
    exact = oracle.attend(q, k, v, mask=seen(4, 2)).out
    np.testing.assert_allclose(wide, exact, rtol=1e-5, atol=1e-6)


OUT = np.zeros((B, HQ, 2, DV), np.float32)
OUTS: dict[str, dict[str, Any]] = {
    "right": {"out": OUT.copy()},
    "float64": {"out": OUT.astype(np.float64)},
    "int8": {"out": OUT.astype(np.int8)},
    "float16": {"out": OUT.astype(np.float16)},
    "another shape": {"out": OUT[:, :, :1]},
    "more axes": {"out": OUT[None]},
    "other byte order": {"out": OUT.astype(">f4")},
    "not aligned": {"out": np.zeros(OUT.nbytes + 1, np.int8)[1:].view(np.float32)},
    "list": {"out": OUT.tolist()},
    "masked": {"out": np.ma.zeros(OUT.shape, np.float32)},
    "elements that overlap": {"out": np.broadcast_to(OUT[:1], OUT.shape)},
    "heads in one memory": {
        "out": np.lib.stride_tricks.as_strided(OUT, OUT.shape, (0, 0, *OUT.strides[2:]))
    },
    "read-only": {"out": np.frombuffer(OUT.tobytes(), np.float32).reshape(OUT.shape)},
    "strided": {"out": np.zeros((B, HQ, 4, 2 * DV), np.float32)[:, :, ::2, ::2]},
    "lse": {"return_lse": True},
    "lse of no bool": {"return_lse": 1},
    "lse of NumPy": {"return_lse": np.True_},
    "mask of another length": {"mask": np.ones(99, bool)},
    "threads": {"num_threads": 0},
    "softcap": {"softcap": "loud"},
    "unknown": {"colour": 3},
}


@pytest.mark.parametrize("name", OUTS)
def test_arguments_are_checked_as_without_sinks(name: str) -> None:
    q, k, v = tokens(2)
    outcomes = []
    for sinks in (0, 2):
        kv = KVCache(B, HKV, D, value_dim=DV, window=4, sink_tokens=sinks)
        kv.append(k, v)
        try:
            result = kv.attend(q, causal=True, **OUTS[name])
        except (TypeError, ValueError) as error:
            outcomes.append(repr(error))
        else:
            out = result[0] if isinstance(result, tuple) else result
            outcomes.append(
                f"{type(result)} {out.dtype} {out.shape} {out is OUTS[name].get('out')}"
            )
    assert outcomes[1].replace("explain()", "attention()") == outcomes[0]


def test_out_may_not_be_an_input_of_a_cache_with_sinks() -> None:
    q, k, _ = tokens(2, seed=3)
    kv = KVCache(B, HKV, D, window=4, sink_tokens=2)
    kv.append(k, k)
    before = kv.keys.copy()
    with pytest.raises(ValueError, match="out"):
        kv.attend(q, out=q)
    with pytest.raises(ValueError, match="out"):
        kv.attend(q[:, :HKV], out=kv.keys)
    np.testing.assert_array_equal(kv.keys, before)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_a_result_has_the_native_dtype_of_the_query(dtype: str) -> None:
    q, k, v = tokens(2, dtype)
    kv = KVCache(
        B, HKV, D, value_dim=DV, window=4, sink_tokens=2, dtype="f8" if dtype == "f8" else "f4"
    )
    kv.append(k, v)
    out = kv.attend(q.astype(">" + dtype))
    assert out.dtype.isnative
    np.testing.assert_array_equal(out, kv.attend(q))


def test_a_query_of_three_axes_is_broadcast() -> None:
    q, k, v = tokens(2)
    results = []
    for sinks in (0, 2):
        kv = KVCache(B, HKV, D, value_dim=DV, window=4, sink_tokens=sinks)
        kv.append(k, v)
        results.append(kv.attend(q[0], causal=True))
        half = kv.attend(q[0].astype(np.float16), causal=True)
        assert half.shape == results[-1].shape
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6, atol=1e-6)
