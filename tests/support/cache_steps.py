"""Every operation of a cache, and how to see whether it took place: wholly, or not at all."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cache_cases import Array, made_read_only
from cpuattn import KVCache, MultiHeadAttention, PagedKVCache

HEADS, D = 2, 8


class Step(NamedTuple):
    """An operation: `do` on what `make` makes, always the same; `look` copies all that it is."""

    make: Callable[[], Any]
    do: Callable[[Any], Any]
    look: Callable[[Any], list[Any]]


def numbers(*shape: int, seed: int = 0) -> Array:
    """Random float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def look_at_kv(cache: KVCache) -> list[Any]:
    """Copy what a user of a KVCache can see of it."""
    seen: list[Any] = [cache.lengths, cache.dropped, cache.capacity]
    arrays = (cache.keys, cache.values, cache.key_scales, cache.value_scales)
    for array in arrays:
        for entry, n in enumerate(cache.lengths - cache.dropped):
            seen.append(None if array is None else array[entry, :, :n].copy())
    for queries in (1, 2, 3):  # also as many as the last append had
        query = np.ones((cache.batch, HEADS, queries, D), np.float32)
        seen.append(cache.attend(query, causal=True))
    return seen


def look_at_pages(cache: PagedKVCache) -> list[Any]:
    """Copy what a user of a PagedKVCache can see of it, and check which pages are free."""
    table, size = cache.block_table(list(cache.lengths)), cache.page_size
    held = [0] * len(cache.keys)
    for (length), pages in zip(cache.lengths.values(), table.tolist(), strict=True):
        for page in pages[: -(-length // size)]:
            held[page] += 1
    pool = cache._state.pool
    assert sorted(pool.free) == [page for page, n in enumerate(held) if not n]
    assert pool.shared == {page: n for page, n in enumerate(held) if n > 1}
    seen: list[Any] = [cache.lengths, cache.free_pages, cache._state.next_id]
    for seq_id, length in cache.lengths.items():
        for queries in (1, 2, 3) if length else ():
            query = np.ones((1, HEADS, queries, D), np.float32)
            seen.append(cache.attend(query, [seq_id], causal=True))
    return seen


def kv(sizes: list[int], do: Callable[[KVCache], Any], **options: Any) -> Step:
    """Make a step of a KVCache with two entries that was filled by appends of these sizes."""
    fill = [numbers(2, 2, HEADS, size, D, seed=i) for i, size in enumerate(sizes)]

    def make() -> KVCache:
        cache = KVCache(2, HEADS, D, **options)
        for key, value in fill:
            cache.append(key, value)
        return cache

    return Step(make, do, look_at_kv)


def pages(do: Callable[[PagedKVCache], Any], **options: Any) -> Step:
    """Make a step of a PagedKVCache: sequences 0 and 1 of 6 tokens, 2 a fork of 0, 3 empty."""
    key, value = numbers(2, 2, HEADS, 6, D)

    def make() -> PagedKVCache:
        cache = PagedKVCache(12, 4, HEADS, D, **options)
        cache.append([cache.add(), cache.add()], key, value)
        cache.fork(0)
        cache.add()
        return cache

    return Step(make, do, look_at_pages)


def of_read_only(step: Step) -> Step:
    """Let the memory of the cache be read-only."""
    return step._replace(make=lambda: made_read_only(step.make()))


KEY, VALUE = numbers(2, 2, HEADS, 3, D, seed=99)
X = numbers(2, 2, HEADS * D, seed=98)
LAYER = MultiHeadAttention(HEADS * D, HEADS, rng=0)


def append(cache: KVCache) -> None:
    """Append three tokens to each entry."""
    cache.append(KEY, VALUE)


def append_pages(cache: PagedKVCache) -> None:
    """Append to a sequence that shares its last page, and to one that does not."""
    cache.append([0, 1], KEY, VALUE)


def refused(cache: KVCache) -> None:
    """Give a layer an option that attention refuses once the tokens are in the cache."""
    try:
        LAYER(X, cache=cache, softcap="loud")
    except TypeError:
        return


SLIDING = {"window": 7, "capacity": 20}
STEPS: dict[str, Step] = {
    "append": kv([3], append, capacity=10),
    "append and grow": kv([3], append, capacity=3),
    "append int8 and grow": kv([3], append, capacity=3, dtype="int8"),
    "append float16": kv([3], append, capacity=10, dtype="float16"),
    "append unequal lengths": kv([3], lambda c: c.append(KEY, VALUE, lengths=[0, 2]), capacity=10),
    "append and move the window": kv([3, 3, 3], append, window=3, capacity=9),
    "append and move a window that overlaps": kv([6, 6, 6, 2], append, **SLIDING),
    "append int8 and move the window": kv([6, 6, 6, 2], append, **SLIDING, dtype="int8"),
    "append beside sinks": kv([6, 6, 6, 2], append, **SLIDING, sink_tokens=2),
    "append to read-only memory": of_read_only(kv([3], append, capacity=10)),
    "truncate": kv([9], lambda c: c.truncate([3, 4])),
    "truncate to the sinks": kv([6, 6, 6], lambda c: c.truncate(1), **SLIDING, sink_tokens=2),
    "reorder": kv([9], lambda c: c.reorder([1, 0, 1]), dtype="int8"),
    "copy": kv([9], lambda c: append(c.copy())),
    "attend": kv([9], lambda c: c.attend(KEY, causal=True), **SLIDING, sink_tokens=2),
    "layer": kv([6, 6, 6, 2], lambda c: LAYER(X, cache=c), **SLIDING),
    "layer that is refused": kv([3], refused, capacity=10),
    "append pages": pages(append_pages),
    "append int8 pages": pages(append_pages, dtype="int8"),
    "append unequal pages": pages(lambda c: c.append([2, 3], KEY, VALUE, lengths=[3, 0])),
    "append to read-only pages": of_read_only(pages(append_pages)),
    "add": pages(lambda c: c.add()),
    "fork": pages(lambda c: c.fork(0)),
    "truncate pages": pages(lambda c: c.truncate(1, 2)),
    "truncate shared pages": pages(lambda c: c.truncate(0, 1)),
    "free": pages(lambda c: c.free(1)),
    "free shared pages": pages(lambda c: c.free(2)),
    "layer on pages": pages(lambda c: LAYER(X, cache=c, seq_ids=[2, 1])),
}


def same(seen: list[Any], expected: list[Any]) -> bool:
    """Whether two looks saw the same."""
    return len(seen) == len(expected) and all(
        np.array_equal(x, y) for x, y in zip(seen, expected, strict=True)
    )


def before_and_after(step: Step) -> tuple[list[Any], list[Any]]:
    """Look at what a step begins and ends with."""
    done = step.make()
    step.do(done)
    return step.look(step.make()), step.look(done)
