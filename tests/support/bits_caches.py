"""Lives of caches for test_bits.py: what they hold and what attention to them gives."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bits_groups import Arguments, Call, Group, normal
from cache_cases import DTYPES
from cpuattn import KVCache, PagedKVCache
from oracle import Array

B, HQ, HKV, D, DV = 2, 6, 2, 24, 19


class Tokens:
    """Queries, keys and values that a life takes one after the other, the same in every run."""

    def __init__(self, rng: np.random.Generator, query_dtype: str, dtype: str) -> None:
        self._queries = normal(rng, B, HQ, 300, D, dtype=query_dtype)
        self._keys = normal(rng, B, HKV, 300, D, dtype=dtype)
        self._values = normal(rng, B, HKV, 300, DV, dtype=dtype)

    def take(self, start: int, count: int, batch: int = B) -> tuple[Array, Array, Array]:
        """Give the query, key and value of `count` tokens from position `start` on."""
        rows, entries = slice(start, start + count), np.arange(batch) % B
        query, key, value = (
            x[entries][:, :, rows] for x in (self._queries, self._keys, self._values)
        )
        return query, key, value


def stored(cache: KVCache) -> list[Any]:
    """Give all that a cache holds, without rows that are undefined."""
    held = (cache.lengths - cache.dropped).tolist()
    rows = [cache.keys, cache.values, cache.key_scales, cache.value_scales]
    parts = [x[b, :, :n] for x in rows if x is not None for b, n in enumerate(held)]
    return [parts, cache.lengths, cache.dropped, cache.capacity, cache.nbytes, repr(cache)]


def life(tokens: Tokens, options: Arguments, threads: int) -> list[Any]:
    """Append, attend, reorder, truncate and copy."""
    cache = KVCache(B, HKV, D, value_dim=DV, **options)
    seen: list[Any] = []

    def step(start: int, count: int, lengths: Any = None, **more: Any) -> None:
        query, key, value = tokens.take(start, count, cache.batch)
        cache.append(key, value, lengths=lengths)
        seen.append(cache.attend(query, return_lse=True, num_threads=threads, **more))
        if count > 1:
            seen.append(stored(cache))

    step(0, 70, causal=True)
    step(70, 1)
    step(71, 4, lengths=[4, 2], causal=True)
    step(75, 3, lengths=[0, 3], causal=True, softcap=2.0)
    cache.truncate((cache.lengths - [0, 1]).tolist())
    step(78, 2, causal=True, alibi_slopes=0.5 ** np.arange(HQ))
    cache.reorder([1, 0, 1])
    for i in range(12):
        step(80 + i, 1, **({"sinks": np.linspace(-1, 1, HQ)} if i % 2 else {}))
    copied = cache.copy()
    step(100, 35, causal=True, scale=0.3)
    seen.append(stored(copied))
    query = tokens.take(40, 1, cache.batch)[0]
    seen.append(copied.attend(query, causal=True, num_threads=threads))
    cache.truncate((cache.lengths - 3).tolist())
    step(140, 5, causal=True)
    if cache.window is None:
        last = cache.lengths
        seen.append(cache.attend(query, query_offset=(last - 9).tolist(), causal=True))
        cache.truncate(0)
        step(150, 6)
    return seen


def strided_tokens(tokens: Tokens, options: Arguments, _threads: int) -> list[Any]:
    """Append keys and values of all layouts, NaN and infinities among them."""
    cache = KVCache(B, HKV, D, value_dim=DV, **options)
    _, key, value = (x.copy() for x in tokens.take(0, 9))
    key[:, 0, 2, 1], value[:, 1, 3, 0], key[:, 1, 4, :] = np.nan, np.inf, 0
    for lay_out in (
        lambda x: x,
        lambda x: x.mT.copy().mT,
        lambda x: x.swapaxes(1, 2).copy().swapaxes(1, 2),
        lambda x: x[:, :, ::-1],
        lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        lambda x: np.broadcast_to(x[:1], x.shape),
    ):
        cache.append(lay_out(key), lay_out(value))
    return stored(cache)


def paged_life(tokens: Tokens, options: Arguments, threads: int) -> list[Any]:
    """Add, append, fork, truncate and free sequences."""
    cache = PagedKVCache(80, kv_heads=HKV, head_dim=D, value_dim=DV, **options)
    first, second = cache.add(), cache.add()
    seen: list[Any] = []

    def step(ids: list[int], start: int, count: int, lengths: Any = None, **more: Any) -> None:
        query, key, value = tokens.take(start, count, len(ids))
        cache.append(ids, key, value, lengths=lengths)
        attended = cache.attend(query, ids, return_lse=True, num_threads=threads, **more)
        table = cache.block_table(ids)
        rows = [cache.keys, cache.values, cache.key_scales, cache.value_scales]
        for i, pages in zip(ids, table, strict=True) if count > 1 else ():
            positions = np.arange(cache.lengths[i])
            page, row = pages[positions // cache.page_size], positions % cache.page_size
            seen.append([x[page, :, row] for x in rows if x is not None])
        seen.extend([attended, table, cache.lengths, cache.free_pages, repr(cache)])

    step([first, second], 0, 33, causal=True)
    step([second], 33, 1)
    third = cache.fork(second)
    step([third, first], 34, 5, lengths=[5, 2], causal=True)
    step([second, third, first], 40, 1, softcap=2.0)
    cache.truncate(third, 30)
    step([third, second], 41, 3, causal=True, window=(9, 0))
    cache.free(first)
    fourth = cache.add()
    step([fourth, third], 50, 70, causal=True, sinks=np.linspace(-1, 1, HQ))
    for i in range(6):
        step([second, fourth, third], 120 + i, 1)
    query = tokens.take(3, 4, 3)[0]
    seen.append(cache.attend(query, [third, third, second], query_offset=[1, 5, 20], causal=True))
    return [seen, cache.nbytes]


def lives(run: Callable[..., list[Any]], dtype: str, rng: np.random.Generator) -> Iterator[Call]:
    """Lives of caches of one dtype, fed with tokens of every dtype."""
    fed = ("float64",) if dtype == "float64" else ("float32", "float16", "bfloat16")
    forms: list[Arguments] = [
        {},
        {"capacity": 200, "max_capacity": 300},
        {"window": 5},
        {"window": 90, "capacity": 64},
        {"window": 5, "sink_tokens": 3},
        {"window": 40, "sink_tokens": 1},
    ]
    if run is paged_life:
        forms = [{"page_size": n} for n in (4, 7, 16)]
    for i, (query_dtype, options) in enumerate(itertools.product(fed, forms)):
        token_dtype = query_dtype if i % 2 else "float64"
        tokens = Tokens(rng, query_dtype, token_dtype)
        label = f"{query_dtype} {token_dtype} {options}"
        yield Call(label, functools.partial(run, tokens, options | {"dtype": dtype}))


def groups() -> dict[str, Group]:
    """Name all groups of this module."""
    names = {"KVCache": life, "KVCache layouts": strided_tokens, "PagedKVCache": paged_life}
    return {
        f"{name} {dtype}": functools.partial(lives, run, dtype)
        for (name, run), dtype in itertools.product(names.items(), DTYPES)
    }
