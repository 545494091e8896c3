"""KVCache in every dtype: what is stored, rounded once, and attention over it."""

import subprocess
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from cache_cases import (
    DTYPES,
    DV,
    FLOATS,
    HKV,
    Array,
    B,
    D,
    chunks,
    dtype_of,
    poison_new_memory,
    rounded,
    tokens,
)
from cpuattn import KVCache, MultiHeadAttention, PagedKVCache, attention, quantize_int8


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_new_memory(monkeypatch)


def stored(x: Array, name: str) -> tuple[Array, Array | None]:
    """Give what a cache of this dtype holds of x, and its scales if it is int8."""
    return quantize_int8(x) if name == "int8" else (rounded(x.astype(np.float64), name), None)


@pytest.mark.parametrize("appended", FLOATS)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("lengths", [None, [9, 4]], ids=str)
def test_any_float_is_appended(name: str, appended: str, lengths: list[int] | None) -> None:
    _, k, v = tokens(9, dtype_of(appended))
    kv = KVCache(B, HKV, D, value_dim=DV, dtype=dtype_of(name))
    kv.append(k, v, lengths=lengths)
    assert kv.keys.dtype == kv.values.dtype == kv.dtype == dtype_of(name)
    for actual, scales, x in ((kv.keys, kv.key_scales, k), (kv.values, kv.value_scales, v)):
        expected, expected_scales = stored(x, name)
        for entry, n in enumerate(lengths or [9, 9]):
            np.testing.assert_array_equal(actual[entry, :, :n], expected[entry, :, :n])
            if scales is None or expected_scales is None:
                assert scales is expected_scales is None
                continue
            np.testing.assert_array_equal(scales[entry, :, :n], expected_scales[entry, :, :n])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_numbers_beside_a_tie_are_rounded_once(name: str) -> None:
    """Float64 numbers so near to a tie that float32 would make them one."""
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[name]
    ties = 1 + unit * (np.arange(8) + 0.5)
    beside = [t + d for t in ties for d in (0.0, 2.0**-40, -(2.0**-40), 2.0**-52)]
    x = np.array([*beside, *(-b for b in beside), 0.0, -0.0, 1e-41, 3e-8]).reshape(-1, 1)
    x = np.concatenate([x, x * 2.0**-9, x * 2.0**9], axis=1)[None, None]
    kv = KVCache(1, 1, 3, dtype=name)
    kv.append(x, x)
    np.testing.assert_array_equal(kv.keys, rounded(x, name))
    assert (kv.keys != x.astype(np.float32).astype(dtype_of(name))).any(), "too easy"


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_infinity_nan_and_overflow(name: str) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1e300, -1e300])[None, None, None]
    kv = KVCache(1, 1, 5, dtype=name)
    kv.append(x, x)
    expected = [np.inf, -np.inf, np.nan, np.inf, -np.inf]
    np.testing.assert_array_equal(kv.keys[0, 0, 0].astype(np.float64), expected)


def options_of(scales: Iterable[Array | None], rows: slice) -> dict[str, Any]:
    """Give the options with which `attention` reads these rows."""
    names = ("key_scale", "value_scale")
    return {n: x[:, :, rows] for n, x in zip(names, scales, strict=True) if x is not None}


PAIRS = [
    (name, queried)
    for name in DTYPES
    for queried in FLOATS
    if (name == "float64") == (queried == "float64")  # as `attention` has it
]


@pytest.mark.parametrize(("name", "queried"), PAIRS)
def test_attend_is_attention_over_what_is_stored(name: str, queried: str) -> None:
    q, k, v = tokens(40, dtype_of(queried))
    kv = KVCache(B, HKV, D, value_dim=DV, dtype=dtype_of(name))
    (keys, key_scale), (values, value_scale) = stored(k, name), stored(v, name)
    for rows in chunks([20, 1, 1, 3, 1, 14]):
        kv.append(k[:, :, rows], v[:, :, rows])
        out, lse = kv.attend(q[:, :, rows], causal=True, return_lse=True)
        held = slice(rows.stop)
        own = options_of((key_scale, value_scale), held)
        expected, expected_lse = attention(
            q[:, :, rows], keys[:, :, held], values[:, :, held], causal=True, return_lse=True, **own
        )
        assert out.dtype == q.dtype
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(lse, expected_lse)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("sink_tokens", [0, 3])
def test_ragged_windows_reorder_and_copy(name: str, sink_tokens: int) -> None:
    """Whatever moves keys moves their scales with them."""
    wide = "float64" if name == "float64" else "float32"
    q, k, v = tokens(40, dtype_of(wide))
    (keys, key_scale), (values, value_scale) = stored(k, name), stored(v, name)
    kv = KVCache(B, HKV, D, value_dim=DV, dtype=dtype_of(name), window=5, sink_tokens=sink_tokens)
    ends, order = np.zeros(B, int), np.arange(B)
    for step in range(18):
        counts = np.array([2, 1 + step % 2])
        taken = [ends[b] + np.arange(2) for b in range(B)]
        chunk = [np.stack([x[order[b]][:, taken[b]] for b in range(B)]) for x in (q, k, v)]
        kv.append(chunk[1], chunk[2], lengths=counts)
        out = kv.attend(chunk[0], causal=True)
        for b, (end, count) in enumerate(zip(ends, counts, strict=True)):
            source, at = order[b], np.arange(end, end + count)
            distance = at[:, None] - np.arange(40)
            near = (distance < 5) | (np.arange(40) < sink_tokens)
            scales = [None if s is None else s[None, source] for s in (key_scale, value_scale)]
            expected = attention(
                q[None, source][:, :, at],
                keys[None, source],
                values[None, source],
                mask=(distance >= 0) & near,
                **options_of(scales, slice(None)),
            )
            np.testing.assert_allclose(out[b : b + 1, :, :count], expected, rtol=1e-5, atol=2e-6)
        ends += counts
        if step % 5 == 4:
            kv.reorder([1, 0])
            kv = kv.copy()
            ends, order = ends[::-1].copy(), order[::-1].copy()
    assert (kv.dropped > 0).all()


@pytest.mark.parametrize("name", DTYPES)
def test_bytes_count_everything(name: str) -> None:
    item = dtype_of(name).itemsize
    scales = 8 if name == "int8" else 0
    kv = KVCache(B, HKV, D, value_dim=DV, capacity=6, dtype=dtype_of(name))
    assert kv.nbytes == B * HKV * 6 * ((D + DV) * item + scales)
    paged = PagedKVCache(4, 3, HKV, D, value_dim=DV, dtype=dtype_of(name))
    assert paged.nbytes == 4 * HKV * 3 * ((D + DV) * item + scales)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8), ("int8", 1 / 254)]
)
def test_a_layer_may_keep_a_narrow_cache(name: str, tolerance: float) -> None:
    layer = MultiHeadAttention(embed_dim=32, num_heads=4, kv_heads=2, rng=0)
    x = np.random.default_rng(0).standard_normal((B, 9, 32)).astype(np.float32)
    whole = layer(x, causal=True)
    kv = KVCache(B, 2, 8, dtype=name)
    steps = [layer(x[:, rows], cache=kv, causal=True) for rows in chunks([6, 1, 2])]
    error = abs(np.concatenate(steps, axis=1) - whole).max()
    assert 0 < error <= 4 * tolerance * abs(whole).max()


def test_a_nan_in_an_int8_cache_shows_wherever_it_is_seen() -> None:
    q, k, v = tokens(6)
    v[0, 0, 2, 1] = np.nan
    k[1, 1, 3, 0] = np.inf
    kv = KVCache(B, HKV, D, value_dim=DV, dtype="int8")
    kv.append(k, v)
    out = kv.attend(q, causal=True)
    sees_value = np.arange(6) >= 2
    sees_key = np.arange(6) >= 3
    bad = np.isnan(out)
    assert (bad[0, :3] == sees_value[:, None]).all()
    assert (bad[1, 3:] == sees_key[:, None]).all()
    assert not bad[0, 3:].any()
    assert not bad[1, :3].any()


def test_bfloat16_by_name_needs_ml_dtypes() -> None:
    code = """
        import sys
        sys.modules["ml_dtypes"] = None  # as if it were not installed
        import cpuattn
        for make in (
            lambda: cpuattn.KVCache(1, 1, 1, dtype="bfloat16"),
            lambda: cpuattn.PagedKVCache(1, 1, 1, 1, dtype="bfloat16"),
        ):
            try:
                make()
            except ImportError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == 2 * 'dtype="bfloat16" needs the package ml_dtypes\n'
