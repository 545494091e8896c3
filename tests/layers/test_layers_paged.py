"""MultiHeadAttention on a PagedKVCache: the bits that it gives on a KVCache of its sequences."""

from typing import Any

import numpy as np
import pytest

from cache_cases import Array, dtype_of, poison_new_memory
from cpuattn import KVCache, MultiHeadAttention, PagedKVCache

pytestmark = pytest.mark.usefixtures("isa")

E, ROWS = 24, 40
ANGLES = np.arange(ROWS)[:, None] * [1.0, 0.1]
ROPE = np.cos(ANGLES), np.sin(ANGLES), True


def random(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def caches(
    batch: int, dtype: str = "float32", page_size: int = 3
) -> tuple[KVCache, PagedKVCache, list[int]]:
    """Give a cache of either kind, and the ids of sequences for its entries, out of order."""
    pages = PagedKVCache(64, page_size, 2, 4, dtype=dtype_of(dtype))
    ids = [pages.add() for _ in range(batch + 2)]
    return KVCache(batch, 2, 4, dtype=dtype_of(dtype)), pages, ids[::-1][:batch]


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "window": (5, 0)}])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8"])
def test_same_bits_as_on_a_cache(
    dtype: str, rope: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_new_memory(monkeypatch)
    wide = "float64" if dtype == "float64" else "float32"
    layer = MultiHeadAttention(E, 6, kv_heads=2, dtype=wide, rng=0)
    plain, pages, ids = caches(3, dtype)
    positions = np.zeros(3, int)
    steps: list[tuple[int, Any]] = [(7, [7, 2, 5]), (1, None), (1, [0, 1, 1]), (4, [4, 4, 1])]
    for length, lengths in steps:
        x = random(3, length, E, dtype=wide)
        for b, n in enumerate([length] * 3 if lengths is None else lengths):
            x[b, n:] = np.nan  # padding
        if rope:
            options = {**options, "rope": ROPE}
        expected = layer(x, cache=plain, key_lengths=lengths, **options)
        got = layer(x, cache=pages, seq_ids=ids, key_lengths=lengths, **options)
        np.testing.assert_array_equal(got, expected)
        positions += length if lengths is None else lengths
        assert [pages.lengths[seq_id] for seq_id in ids] == positions.tolist()
    assert sorted(pages.lengths.values()) == [0, 0, *sorted(positions)]


def test_rows_of_rope_given_directly() -> None:
    layer = MultiHeadAttention(E, 6, kv_heads=2, rng=0)
    plain, pages, ids = caches(2)
    x = random(2, 9, E)
    for start, end in ((0, 5), (5, 6), (6, 9)):
        cos, sin = (table[None, start:end] for table in ROPE[:2])
        step: dict[str, Any] = {"rope": (cos, sin), "causal": True}
        expected = layer(x[:, start:end], cache=plain, **step)
        got = layer(x[:, start:end], cache=pages, seq_ids=ids, **step)
        np.testing.assert_array_equal(got, expected)


def test_batches_that_change_and_share_a_prefix() -> None:
    layer = MultiHeadAttention(E, 6, kv_heads=2, rng=0)
    plain, pages, ids = caches(1, page_size=4)
    x = random(1, 6, E)
    layer(x, cache=plain, rope=ROPE, causal=True)
    layer(x, cache=pages, seq_ids=ids, rope=ROPE, causal=True)
    forks = [pages.fork(ids[0]), pages.fork(ids[0])]
    plain.reorder([0, 0])
    tokens = random(2, 4, E)
    for step in (0, 1):
        both = tokens[:, step : step + 1]
        expected = layer(both, cache=plain, rope=ROPE)
        got = layer(both, cache=pages, seq_ids=forks, rope=ROPE)
        np.testing.assert_array_equal(got, expected)
    for entry, seq_id in enumerate(forks):  # one after the other from here on
        alone = plain.copy()
        alone.reorder([entry])
        for step in (2, 3):
            one = tokens[entry : entry + 1, step : step + 1]
            expected = layer(one, cache=alone, rope=ROPE)
            got = layer(one, cache=pages, seq_ids=[seq_id], rope=ROPE)
            np.testing.assert_array_equal(got, expected)
    assert [pages.lengths[seq_id] for seq_id in (*ids, *forks)] == [6, 10, 10]


@pytest.mark.parametrize("as_context", [False, True])
def test_a_projected_context(as_context: bool) -> None:
    """Projected once into pages, then attended to by any number of queries at a time."""
    layer = MultiHeadAttention(E, 6, kv_heads=2, key_dim=10, value_dim=10, rng=0)
    x, context = random(2, 4, E), random(2, 9, 10)
    plain, pages, ids = caches(2)
    expected = layer(x, context, cache=plain, key_lengths=[9, 6])
    got = layer(x, context, cache=pages, seq_ids=ids, key_lengths=[9, 6])
    np.testing.assert_array_equal(got, expected)
    if as_context:
        np.testing.assert_array_equal(layer(x, pages, seq_ids=ids), layer(x, plain))
        both = layer(x, pages, seq_ids=[ids[1], ids[1]])  # two entries may read one sequence
        np.testing.assert_array_equal(both[1], layer(x, plain)[1])
    assert [pages.lengths[seq_id] for seq_id in ids] == [9, 6]
