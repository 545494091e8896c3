"""PagedKVCache against a plain model: every sequence a list of tokens of its own.

After each step all rows that no sequence uses are filled with NaN, so that none can have a say.
"""

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cache_cases import DTYPES, DV, HKV, HQ, Array, D, dtype_of, tokens
from cpuattn import KVCache, OutOfPagesError, PagedKVCache, attention, quantize_int8
from cpuattn.cache import paged

POOL = tokens(200, batch=1)  # what is appended is some slice of these


def gathered(cache: PagedKVCache, seq_id: int) -> list[Array]:
    """Copy keys, values and their scales of one sequence out of its pages, token by token."""
    (table,), size = cache.block_table([seq_id]), cache.page_size
    where = [(table[t // size], t % size) for t in range(cache.lengths[seq_id])]
    arrays = (cache.keys, cache.values, cache.key_scales, cache.value_scales)
    return [
        np.array([x[page, :, row] for page, row in where], x.dtype).reshape(-1, *x[0, :, 0].shape)
        for x in arrays
        if x is not None
    ]


def poison_unused(cache: PagedKVCache) -> None:
    """Fill every row that holds no token of any sequence with NaN."""
    used = np.zeros((len(cache.keys), cache.page_size), bool)
    for seq_id, length in cache.lengths.items():
        for token, page in enumerate(cache.block_table([seq_id])[0].repeat(cache.page_size)):
            used[page, token % cache.page_size] |= token < length
    for array in (cache.keys, cache.values, cache.key_scales, cache.value_scales):
        if array is not None:
            array.swapaxes(1, 2)[~used] = 77 if array.dtype == np.int8 else np.nan


class Machine(RuleBasedStateMachine):
    """Random calls of a cache with few pages, each mirrored by a dict of lists of tokens."""

    @initialize(
        num_pages=st.integers(1, 12), page_size=st.integers(1, 5), dtype=st.sampled_from(DTYPES)
    )
    def begin(self, num_pages: int, page_size: int, dtype: str) -> None:
        self.cache = PagedKVCache(num_pages, page_size, HKV, D, value_dim=DV, dtype=dtype_of(dtype))
        self.num_pages = num_pages
        self.model: dict[int, list[int]] = {}
        poison_unused(self.cache)

    def some(self, data: st.DataObject) -> int:
        """Draw the id of a sequence."""
        return data.draw(st.sampled_from(sorted(self.model)))

    def pages(self, length: int) -> int:
        """Count the pages of so many tokens."""
        return -(-length // self.cache.page_size)

    @rule()
    def add(self) -> None:
        seq_id = self.cache.add()
        assert seq_id not in self.model
        self.model[seq_id] = []

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        seq_id, before = self.some(data), self.cache.free_pages
        forked = self.cache.fork(seq_id)
        assert forked not in self.model
        assert self.cache.free_pages == before
        self.model[forked] = list(self.model[seq_id])

    @precondition(lambda self: self.model)
    @rule(size=st.integers(0, 11), data=st.data())
    def append(self, size: int, data: st.DataObject) -> None:
        ids = st.lists(st.sampled_from(sorted(self.model)), min_size=1, max_size=4, unique=True)
        chosen = data.draw(ids)
        first = [data.draw(st.integers(0, 180)) for _ in chosen]
        counts = [data.draw(st.integers(0, size)) for _ in chosen]
        key, value = (np.concatenate([x[:, :, f : f + size] for f in first]) for x in POOL[1:])
        needed, free = self.needed(chosen, counts), self.cache.free_pages
        if needed > free:
            with pytest.raises(
                OutOfPagesError, match=f"{needed} more pages needed, but only {free}"
            ):
                self.cache.append(chosen, key, value, lengths=counts)
            assert self.cache.free_pages == free
            return
        self.cache.append(chosen, key, value, lengths=counts)
        for seq_id, f, count in zip(chosen, first, counts, strict=True):
            self.model[seq_id] += range(f, f + count)

    def needed(self, chosen: list[int], counts: list[int]) -> int:
        """Count the free pages that an append takes: new ones, and copies of shared last ones."""
        held = [
            page
            for seq_id, model in self.model.items()
            for page in self.cache.block_table([seq_id])[0, : self.pages(len(model))].tolist()
        ]
        total = 0
        for seq_id, count in zip(chosen, counts, strict=True):
            length = len(self.model[seq_id])
            total += self.pages(length + count) - self.pages(length)
            if count and length % self.cache.page_size:
                last = self.cache.block_table([seq_id])[0, self.pages(length) - 1]
                total += held.count(last) > 1
        return total

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        seq_id = self.some(data)
        n = data.draw(st.integers(0, len(self.model[seq_id])))
        self.cache.truncate(seq_id, n)
        del self.model[seq_id][n:]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        seq_id = self.some(data)
        self.cache.free(seq_id)
        del self.model[seq_id]

    @precondition(lambda self: self.model)
    @rule(queries=st.integers(1, 3), data=st.data())
    def attend(self, queries: int, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.model)), min_size=1, max_size=4))
        wide: Any = np.float64 if self.cache.keys.dtype == np.float64 else np.float32
        query = POOL[0][:, :, : queries * len(chosen)].astype(wide)
        query = np.concatenate(np.split(query, len(chosen), axis=2))
        starts = [len(self.model[seq_id]) - queries for seq_id in chosen]
        options: dict[str, Any] = {"causal": True, "return_lse": True}
        out, lse = self.cache.attend(query, chosen, query_offset=starts, **options)
        for entry, seq_id in enumerate(chosen):
            keys, values, *scales = (x.swapaxes(0, 1)[None] for x in gathered(self.cache, seq_id))
            own: dict[str, Any] = {}
            if scales:
                own = dict(zip(("key_scale", "value_scale"), scales, strict=True))
            one = slice(entry, entry + 1)
            expected, expected_lse = attention(query[one], keys, values, **options, **own)
            np.testing.assert_array_equal(out[one], expected)
            np.testing.assert_array_equal(lse[one], expected_lse)

    @invariant()
    def every_sequence_holds_its_tokens(self) -> None:
        poison_unused(self.cache)
        assert self.cache.lengths == {seq_id: len(model) for seq_id, model in self.model.items()}
        for seq_id, model in self.model.items():
            expected = [x[0][:, model].swapaxes(0, 1) for x in POOL[1:]]
            if self.cache.keys.dtype == np.int8:
                parts = [quantize_int8(x) for x in expected]
                expected = [q for q, _ in parts] + [scale for _, scale in parts]
            for actual, x in zip(gathered(self.cache, seq_id), expected, strict=True):
                np.testing.assert_array_equal(actual, x.astype(actual.dtype))

    @invariant()
    def pages_are_held_or_free(self) -> None:
        held: set[int] = set()
        for seq_id, model in self.model.items():
            held |= set(self.cache.block_table([seq_id])[0, : self.pages(len(model))].tolist())
        assert self.cache.free_pages == self.num_pages - len(held)


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestRandomCalls = Machine.TestCase


@pytest.mark.parametrize("name", DTYPES)
def test_steps_of_a_batch_equal_contiguous_caches(name: str) -> None:
    """A padded prefill, then steps, with the default positions of queries, as KVCache has them."""
    q, k, v = tokens(30, np.float64 if name == "float64" else np.float32)
    contiguous = KVCache(2, HKV, D, value_dim=DV, dtype=dtype_of(name))
    cache = PagedKVCache(20, 4, HKV, D, value_dim=DV, dtype=dtype_of(name))
    poison_unused(cache)
    ids = [cache.add(), cache.add()]
    start = 0
    for counts in ([9, 4], [1, 1], [1, 1], [5, 2], [1, 0], [3, 3]):
        rows = slice(start, start + max(counts))
        contiguous.append(k[:, :, rows], v[:, :, rows], lengths=counts)
        cache.append(ids, k[:, :, rows], v[:, :, rows], lengths=counts)
        poison_unused(cache)
        expected = contiguous.attend(q[:, :, rows], causal=True, window=(6, None))
        out = cache.attend(q[:, :, rows], ids, causal=True, window=(6, None))
        for entry, count in enumerate(counts):
            np.testing.assert_array_equal(out[entry, :, :count], expected[entry, :, :count])
        start = rows.stop
    last = q[:, :, :1]
    np.testing.assert_array_equal(cache.attend(last, ids), contiguous.attend(last))
    assert list(cache.lengths.values()) == contiguous.lengths.tolist()


def test_forks_share_pages_until_they_append() -> None:
    _, k, v = tokens(10, batch=1)
    cache = PagedKVCache(8, 4, HKV, D, value_dim=DV)
    first = cache.add()
    cache.append([first], k, v)
    second = cache.fork(first)
    third = cache.fork(second)
    table = cache.block_table([first, second, third])
    assert (table == table[0]).all()
    assert cache.free_pages == 5
    cache.append([second], k[:, :, :1], v[:, :, :1])
    own = cache.block_table([second])[0]
    assert own[:2].tolist() == table[0, :2].tolist()
    assert own[2] != table[0, 2]
    assert cache.free_pages == 4
    cache.free(first)
    assert cache.free_pages == 4
    cache.append([third], k[:, :, :2], v[:, :, :2])  # nobody else holds its last page any more
    assert cache.block_table([third])[0].tolist() == table[0].tolist()
    np.testing.assert_array_equal(gathered(cache, third)[0][:10], k[0].swapaxes(0, 1))
    cache.free(second)
    cache.free(third)
    assert cache.free_pages == 8
    assert cache.lengths == {}


def test_a_fork_truncated_within_a_shared_page_leaves_the_rest_to_the_others() -> None:
    _, k, v = tokens(7, batch=1)
    cache = PagedKVCache(4, 4, HKV, D, value_dim=DV)
    first = cache.add()
    cache.append([first], k, v)
    second = cache.fork(first)
    cache.truncate(second, 5)
    cache.append([second], k[:, :, :1], v[:, :, :1])
    np.testing.assert_array_equal(gathered(cache, first)[0], k[0].swapaxes(0, 1))
    order = [0, 1, 2, 3, 4, 0]
    np.testing.assert_array_equal(gathered(cache, second)[1], v[0][:, order].swapaxes(0, 1))


def test_full_pages_are_never_copied() -> None:
    _, k, v = tokens(8, batch=1)
    cache = PagedKVCache(4, 4, HKV, D, value_dim=DV)
    first = cache.add()
    cache.append([first], k, v)
    second = cache.fork(first)
    cache.append([second, first], k.repeat(2, axis=0)[:, :, :1], v.repeat(2, axis=0)[:, :, :1])
    assert cache.free_pages == 0
    tables = cache.block_table([first, second])
    assert (tables[0, :2] == tables[1, :2]).all()
    assert len(set(tables.ravel().tolist())) == 4


def test_options_of_attention_pass_through() -> None:
    q, k, v = tokens(9, batch=1)
    cache = PagedKVCache(4, 4, HKV, D, value_dim=DV)
    seq_id = cache.add()
    cache.append([seq_id], k, v)
    poison_unused(cache)
    out = np.empty((1, HQ, 9, DV), np.float32)
    options: dict[str, Any] = {
        "softcap": 2.0,
        "alibi_slopes": np.full(HQ, 0.5),
        "sinks": np.ones(HQ),
    }
    options["mask"] = np.arange(12) % 4 != 1  # 3 pages of 4 tokens
    result, lse = cache.attend(q, [seq_id], out=out, causal=True, return_lse=True, **options)
    assert result is out
    options["mask"] = options["mask"][:9]
    expected, expected_lse = attention(q, k, v, causal=True, return_lse=True, **options)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(lse, expected_lse)


def test_repr_tells_shape_dtype_and_lengths() -> None:
    cache = PagedKVCache(4, 2, 1, 8, value_dim=5, dtype="float64")
    cache.append([cache.add()], np.zeros((1, 1, 3, 8)), np.zeros((1, 1, 3, 5)))
    assert repr(cache) == (
        "<PagedKVCache num_pages=4, page_size=2, kv_heads=1, head_dim=8, value_dim=5, "
        "dtype=float64, free_pages=2, lengths={0: 3}>"
    )


def test_several_queries_may_read_one_sequence() -> None:
    q, k, v = tokens(6, batch=1)
    cache = PagedKVCache(4, 4, HKV, D, value_dim=DV)
    empty, seq_id = cache.add(), cache.add()
    cache.append([seq_id], k, v)
    out, lse = cache.attend(q[:, :, 3:].repeat(3, axis=0), [seq_id, empty, seq_id], return_lse=True)
    expected = attention(q[:, :, 3:], k, v)[0]
    for entry in (0, 2):
        np.testing.assert_array_equal(out[entry], expected)
    assert not out[1].any()
    assert (lse[1] == -np.inf).all()


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(paged)
    assert result.attempted >= 9
    assert result.failed == 0
