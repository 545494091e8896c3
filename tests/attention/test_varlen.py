"""Packed sequences and paged caches: the bits of each sequence alone, wherever its rows lie."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import paged
from oracle import Array

pytestmark = pytest.mark.usefixtures("isa")

# Empty ones, single rows, few rows (the decode kernel), many; more keys than queries and fewer.
QUERIES = np.array([0, 3, 3, 40, 41, 41, 190, 198])
KEYS = np.array([0, 50, 60, 60, 300, 301, 410, 1500])

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (30, 4)},
    "softcap": {"softcap": 2.0, "sinks": [0.5, -1.0, 0.0, 1.0]},
    "alibi": {"alibi_slopes": [0.1, 0.2, 0.3, 0.4], "causal": True},
}


def packed(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    return (
        rng.standard_normal((QUERIES[-1], 4, 24), dtype=np.float32),
        rng.standard_normal((KEYS[-1], 2, 24), dtype=np.float32),
        rng.standard_normal((KEYS[-1], 2, 10), dtype=np.float32),
    )


def alone(x: Array, offsets: Array, b: int) -> Array:
    """Sequence b as (heads, length, dim)."""
    return x[offsets[b] : offsets[b + 1]].swapaxes(0, 1)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_packed_equals_a_loop(name: str, num_threads: int) -> None:
    query, key, value = packed(np.random.default_rng(1))
    options: dict[str, Any] = OPTIONS[name] | {"return_lse": True}
    out, lse = cpuattn.attention_varlen(
        query, key, value, QUERIES, KEYS, num_threads=num_threads, **options
    )
    assert out.shape == (QUERIES[-1], 4, 10)
    assert lse.shape == (QUERIES[-1], 4)
    for b in range(len(QUERIES) - 1):
        expected = cpuattn.attention(
            alone(query, QUERIES, b), alone(key, KEYS, b), alone(value, KEYS, b), **options
        )
        np.testing.assert_array_equal(alone(out, QUERIES, b), expected[0])
        np.testing.assert_array_equal(lse[QUERIES[b] : QUERIES[b + 1]].T, expected[1])


def test_options_of_each_sequence() -> None:
    """Those that have a batch, or rows and keys, are those of a padded batch."""
    rng = np.random.default_rng(2)
    query, key, value = packed(rng)
    lengths = np.diff(KEYS)
    longest = int(np.diff(QUERIES).max()), int(lengths.max())
    options: dict[str, Any] = {
        "mask": rng.random((len(lengths), 1, *longest)) < 0.8,
        "bias": rng.standard_normal((len(lengths), 4, *longest), dtype=np.float32),
        "query_segments": rng.integers(0, 2, (len(lengths), longest[0])),
        "key_segments": rng.integers(0, 2, (len(lengths), longest[1])),
        "key_lengths": lengths - lengths // 3,
        "query_offset": np.arange(len(lengths)) * 10,
        "alibi_slopes": rng.random((len(lengths), 4), dtype=np.float32),
        "causal": True,
    }
    out = cpuattn.attention_varlen(query, key, value, QUERIES, KEYS, **options)
    for b, (rows, keys) in enumerate(zip(pairwise(QUERIES), pairwise(KEYS), strict=True)):
        own: dict[str, Any] = {name: x if x is True else x[b] for name, x in options.items()}
        corner = (..., slice(rows[1] - rows[0]), slice(keys[1] - keys[0]))
        own |= {"mask": own["mask"][corner], "bias": own["bias"][corner]}
        own["query_segments"] = own["query_segments"][: rows[1] - rows[0]]
        own["key_segments"] = own["key_segments"][: keys[1] - keys[0]]
        expected = cpuattn.attention(
            alone(query, QUERIES, b), alone(key, KEYS, b), alone(value, KEYS, b), **own
        )
        np.testing.assert_array_equal(alone(out, QUERIES, b), expected)


def test_packed_int8_and_out() -> None:
    rng = np.random.default_rng(3)
    query = rng.standard_normal((QUERIES[-1], 4, 24)).astype(np.float16)
    key, value = rng.integers(-127, 128, (2, KEYS[-1], 2, 24), dtype=np.int8)
    scales = rng.random((2, KEYS[-1], 2), dtype=np.float32)
    out = np.zeros((4, QUERIES[-1], 24), np.float32).swapaxes(0, 1)
    cpuattn.attention_varlen(
        query, key, value, QUERIES, KEYS, key_scale=scales[0], value_scale=scales[1], out=out
    )
    for b, keys in enumerate(pairwise(KEYS)):
        key_scale, value_scale = scales[:, slice(*keys)].swapaxes(1, 2)
        expected = np.empty((4, QUERIES[b + 1] - QUERIES[b], 24), np.float32)
        cpuattn.attention(
            alone(query, QUERIES, b),
            alone(key, KEYS, b),
            alone(value, KEYS, b),
            key_scale=key_scale,
            value_scale=value_scale,
            out=expected,
        )
        np.testing.assert_array_equal(alone(out, QUERIES, b), expected)


def test_single_tokens() -> None:
    """All sequences of one query and one key: nothing else tells how far rows lie apart."""
    query, key, value = np.arange(24, dtype=np.float32).reshape(3, 4, 2, 1)
    out = cpuattn.attention_varlen(query, key, value, range(5), range(5))
    np.testing.assert_array_equal(out, value)


def test_no_sequences() -> None:
    none = np.zeros((0, 2, 3), np.float32)
    out, lse = cpuattn.attention_varlen(none, none, none, [0], [0], return_lse=True)
    assert (out.shape, lse.shape) == ((0, 2, 3), (0, 2))


@pytest.mark.parametrize("queries", [1, 2, 70])
@pytest.mark.parametrize("page_size", [1, 7, 16, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_pages_equal_contiguous_rows(queries: int, page_size: int, dtype: Any) -> None:
    rng = np.random.default_rng(page_size)
    query = rng.standard_normal((2, 4, queries, 40)).astype(dtype)
    key = rng.standard_normal((2, 2, 700, 40)).astype(dtype)
    value = rng.standard_normal((2, 2, 700, 24)).astype(dtype)
    lengths = [700, 333]
    options: dict[str, Any] = {"key_lengths": lengths, "causal": True, "return_lse": True}
    expected = cpuattn.attention(query, key, value, **options)
    value[1, :, 333:] = np.nan  # never read, or never heard of
    state = rng.bit_generator.state
    key_pages, table = paged(key, page_size, rng, np.nan)
    rng.bit_generator.state = state
    value_pages, _ = paged(value, page_size, rng, np.nan)
    table[1, -(-333 // page_size) :] = -1
    got = cpuattn.attention(query, key_pages, value_pages, block_table=table, **options)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("queries", [1, 70])
def test_int8_pages(queries: int) -> None:
    rng = np.random.default_rng(7)
    query = rng.standard_normal((2, 4, queries, 40)).astype(np.float32)
    key, value = rng.integers(-127, 128, (2, 2, 2, 300, 40), dtype=np.int8)
    scale = rng.random((2, 2, 300), dtype=np.float32)
    options: dict[str, Any] = {"key_lengths": [300, 123]}
    expected = cpuattn.attention(query, key, value, key_scale=scale, value_scale=scale, **options)
    state = rng.bit_generator.state
    pages = []
    for x, fill in ((key, 99), (value, 99), (scale, np.nan)):
        rng.bit_generator.state = state
        laid, table = paged(x, 16, rng, fill)
        pages.append(laid)
    got = cpuattn.attention(
        query,
        pages[0],
        pages[1],
        key_scale=pages[2],
        value_scale=pages[2],
        block_table=table,
        **options,
    )
    np.testing.assert_array_equal(got, expected)


def test_pages_by_strides() -> None:
    """Pages laid out as (num_pages, page_size, heads, head_dim), and a table of its own strides."""
    rng = np.random.default_rng(8)
    query = rng.standard_normal((2, 4, 1, 16), dtype=np.float32)
    key, value = rng.standard_normal((2, 6, 8, 2, 16), dtype=np.float32).swapaxes(2, 3)
    table = np.array([[5, 1], [0, 3], [2, 2]]).T
    got = cpuattn.attention(query, key, value, block_table=table, key_lengths=[24, 20])
    rows = [np.concatenate(list(x[table[b]]), axis=1) for b in range(2) for x in (key, value)]
    for b, length in enumerate((24, 20)):
        expected = cpuattn.attention(query[b], rows[2 * b][:, :length], rows[2 * b + 1][:, :length])
        np.testing.assert_array_equal(got[b], expected)


def padded(x: Array) -> Array:
    """Packed keys as (B, heads, longest, ...); what no key fills is NaN, or 99."""
    lengths = np.diff(KEYS)
    fill = 99 if x.dtype == np.int8 else np.nan
    out = np.full((len(lengths), x.shape[1], lengths.max(), *x.shape[2:]), fill, x.dtype)
    for entry, rows in zip(out, pairwise(KEYS), strict=True):
        entry[:, : rows[1] - rows[0]] = x[slice(*rows)].swapaxes(0, 1)
    return out


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("page_size", "num_threads"), [(1, 1), (16, 3), (100, 2), (2000, 1)])
def test_packed_queries_over_pages(name: str, page_size: int, num_threads: int) -> None:
    query, key, value = packed(np.random.default_rng(9))
    options: dict[str, Any] = OPTIONS[name] | {"return_lse": True}
    (keys, table), (values, _) = (
        paged(padded(x), page_size, np.random.default_rng(10), np.nan) for x in (key, value)
    )
    lengths = np.diff(KEYS)
    for row, length in zip(table, lengths, strict=True):
        row[-(-length // page_size) :] = -1
    out, lse = cpuattn.attention_varlen(
        query,
        keys,
        values,
        QUERIES,
        None,
        block_table=table,
        key_lengths=lengths,
        num_threads=num_threads,
        **options,
    )
    for b in range(len(QUERIES) - 1):
        expected = cpuattn.attention(
            alone(query, QUERIES, b), alone(key, KEYS, b), alone(value, KEYS, b), **options
        )
        np.testing.assert_array_equal(alone(out, QUERIES, b), expected[0])
        np.testing.assert_array_equal(lse[QUERIES[b] : QUERIES[b + 1]].T, expected[1])


def test_packed_queries_over_int8_pages() -> None:
    rng = np.random.default_rng(11)
    query = rng.standard_normal((QUERIES[-1], 4, 24)).astype(np.float16)
    key, value = rng.integers(-127, 128, (2, KEYS[-1], 2, 24), dtype=np.int8)
    scales = rng.random((2, KEYS[-1], 2), dtype=np.float32)
    (keys, table), (values, _), (key_scale, _), (value_scale, _) = (
        paged(padded(x), 16, np.random.default_rng(12), fill)
        for x, fill in ((key, 99), (value, 99), (scales[0], np.nan), (scales[1], np.nan))
    )
    got = cpuattn.attention_varlen(
        query,
        keys,
        values,
        QUERIES,
        None,
        block_table=table,
        key_lengths=np.diff(KEYS),
        key_scale=key_scale,
        value_scale=value_scale,
        causal=True,
    )
    expected = cpuattn.attention_varlen(
        query,
        key,
        value,
        QUERIES,
        KEYS,
        key_scale=scales[0],
        value_scale=scales[1],
        causal=True,
    )
    np.testing.assert_array_equal(got, expected)


def test_one_step_of_prompts_and_tokens() -> None:
    """Of a paged cache: the bits of `attend`, which takes as many queries of each sequence."""
    rng = np.random.default_rng(13)
    cache = cpuattn.PagedKVCache(num_pages=40, page_size=4, kv_heads=2, head_dim=8)
    lengths, queries = [40, 7, 33], [40, 1, 1]
    ids = [cache.add() for _ in lengths]
    for seq_id, length in zip(ids, lengths, strict=True):
        cache.append([seq_id], *rng.standard_normal((2, 1, 2, length, 8), dtype=np.float32))
    ends = np.cumsum([0, *queries])
    query = rng.standard_normal((ends[-1], 4, 8), dtype=np.float32)
    step: dict[str, Any] = {
        "block_table": cache.block_table(ids),
        "key_lengths": [cache.lengths[seq_id] for seq_id in ids],
        "causal": True,
    }
    got = cpuattn.attention_varlen(query, cache.keys, cache.values, ends, None, **step)
    for b, seq_id in enumerate(ids):
        expected = cache.attend(alone(query, ends, b)[None], [seq_id], causal=True)
        np.testing.assert_array_equal(alone(got, ends, b), expected[0])
    plans = cpuattn.explain_varlen(query, cache.keys, cache.values, ends, None, **step)
    assert [plan["kernel"] for plan in plans] == ["decode", "forward"]


def test_no_sequences_over_pages() -> None:
    pages, none = np.zeros((3, 2, 4, 8), np.float32), np.zeros((0, 2), np.int64)
    step: dict[str, Any] = {"block_table": none, "key_lengths": none[:, 0]}
    query = np.zeros((0, 2, 8), np.float32)
    assert cpuattn.attention_varlen(query, pages, pages, [0], None, **step).shape == (0, 2, 8)


def test_explain_takes_pages() -> None:
    pages = np.zeros((3, 1, 8, 4), np.float32)
    plan = cpuattn.explain(
        np.zeros((1, 1, 1, 4), np.float32), pages, pages, block_table=[[0, 2]], key_lengths=[9]
    )
    assert plan["kernel"] == "decode"
    assert plan["num_chunks"] == 1
