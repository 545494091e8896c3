"""Caches that several threads use at once: results of some moment, and no token is lost."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from cache_cases import Array
from cpuattn import KVCache, MultiHeadAttention, PagedKVCache

HEADS, D = 8, 16


@pytest.fixture(autouse=True)
def _frequent_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def tokens(x: float, count: int = 1, heads: int = HEADS) -> Array:
    return np.full((1, heads, count, D), x, np.float32)


ZERO = tokens(0)


@contextmanager
def running(*functions: Callable[[], None], threads: int = 2) -> Iterator[list[Any]]:
    """Call each function again and again, in so many threads, until the block ends."""
    wrong: list[Any] = []
    stop = threading.Event()

    def repeat(function: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                function()
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            wrong.append(repr(error))

    workers = [threading.Thread(target=repeat, args=(f,)) for f in functions * threads]
    for worker in workers:
        worker.start()
    try:
        yield wrong
    finally:
        stop.set()
        for worker in workers:
            worker.join()


@pytest.mark.parametrize("options", [{}, {"window": 20}, {"dtype": "int8"}], ids=str)
def test_two_threads_that_append_lose_no_token(options: dict[str, Any]) -> None:
    cache, each, count = KVCache(1, HEADS, D, **options), 60, 200  # so many without the GIL

    def append(x: float) -> None:
        for _ in range(each):
            cache.append(tokens(x, count), tokens(x, count))

    workers = [threading.Thread(target=append, args=(x,)) for x in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert cache.lengths.tolist() == [2 * each * count]
    rows = [cache.keys[0], cache.values[0]]
    if cache.key_scales is not None and cache.value_scales is not None:
        scales = (cache.key_scales, cache.value_scales)
        rows = [x * s[0, :, :, None] for x, s in zip(rows, scales, strict=True)]
    keys, values = (np.round(x[0, :, 0], 3) for x in rows)
    assert np.isin(keys, (1, 2)).all()
    np.testing.assert_array_equal(keys, values)
    if "window" not in options:
        assert (keys == 1).sum() == each * count


@pytest.mark.parametrize("sink_tokens", [0, 2])
def test_attend_beside_a_moving_window_gives_the_result_of_a_moment(sink_tokens: int) -> None:
    window = 5
    cache = KVCache(1, HEADS, D, window=window, capacity=12, sink_tokens=sink_tokens)
    for t in range(window + sink_tokens):  # the sinks have the value 0: they count as tokens only
        cache.append(ZERO, tokens(max(t + 1 - sink_tokens, 0)))

    def attend() -> None:
        out = cache.attend(ZERO, causal=True)
        mean = out[0, 0, 0, 0] * (window + sink_tokens) / window
        assert np.ptp(out) < 1e-3 * mean, out
        assert abs(mean - round(mean)) < 1e-3 * mean, mean

    with running(attend) as wrong:
        for t in range(window + 1, 3000):
            cache.append(ZERO, tokens(t))
    assert wrong == []


def test_attend_beside_rejected_drafts_gives_the_result_of_a_moment() -> None:
    """Rows are written again and again, each time with one value for all of them."""
    cache = KVCache(1, HEADS, D, capacity=3000)

    def attend() -> None:
        out = cache.attend(ZERO)
        assert np.ptp(out) == 0, np.unique(out)

    cache.append(tokens(0, 2000), tokens(1, 2000))
    with running(attend) as wrong:
        for t in range(2, 300):
            cache.truncate(0)
            cache.append(tokens(0, 2000), tokens(t, 2000))
    assert wrong == []


def test_no_page_of_another_sequence_is_read() -> None:
    cache = PagedKVCache(num_pages=600, page_size=1, kv_heads=1, head_dim=D)
    other, own = cache.add(), cache.add()
    cache.append([own], tokens(0, 100, 1), tokens(1, 100, 1))

    def attend() -> None:
        out = cache.attend(tokens(0, 1, 1), [own])
        assert (abs(out - 1) < 1e-6).all(), np.unique(out)

    with running(attend) as wrong:
        for _ in range(300):
            cache.append([other], tokens(0, 200, 1), tokens(-1000, 200, 1))
            cache.append([own], tokens(0, 3, 1), tokens(1, 3, 1))
            cache.truncate(own, 50)  # its pages go to the other one
            cache.append([other], tokens(0, 200, 1), tokens(-1000, 200, 1))
            cache.truncate(other, 0)
            cache.append([own], tokens(0, 50, 1), tokens(1, 50, 1))
    assert wrong == []


def test_threads_with_sequences_of_their_own() -> None:
    """They add, grow, fork and free at once; in the end every page is free again."""
    cache = PagedKVCache(num_pages=400, page_size=4, kv_heads=1, head_dim=D)
    names = iter(range(1000))

    def work() -> None:
        x = float(next(names))
        for _ in range(30):
            first = cache.add()
            cache.append([first], tokens(0, 6, 1), tokens(x, 6, 1))
            second = cache.fork(first)
            cache.append([second], tokens(0, 6, 1), tokens(x, 6, 1))
            cache.append([first, second], *2 * [np.repeat(tokens(x, 3, 1), 2, axis=0)])
            out = cache.attend(np.zeros((2, 1, 1, D), np.float32), [first, second])
            assert np.allclose(out, x), (x, np.unique(out))
            cache.free(first)
            cache.free(second)

    with running(work) as wrong:
        threading.Event().wait(1.0)
    assert wrong == []
    assert cache.lengths == {}
    assert cache.free_pages == 400


def test_a_refused_layer_takes_back_its_own_tokens_only() -> None:
    """Meanwhile another thread appended to another sequence."""
    layer = MultiHeadAttention(2 * D, 2, rng=0)
    cache = PagedKVCache(num_pages=20, page_size=4, kv_heads=2, head_dim=D)
    own, other = cache.add(), cache.add()
    x = np.ones((1, 3, 2 * D), np.float32)
    layer(x, cache=cache, seq_ids=[own])
    before = cache.free_pages

    class Bias:
        """An option that is read late: by then the other sequence has grown."""

        def __array__(self, *_: Any, **__: Any) -> Array:
            cache.append([other], tokens(0, 3, 2), tokens(0, 3, 2))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        layer(x, cache=cache, seq_ids=[own], bias=Bias())
    assert cache.lengths == {own: 3, other: 3}
    assert cache.free_pages == before - 1
    cache.append([own], tokens(0, 3, 2), tokens(0, 3, 2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_may_append_whatever_threads_did_at_the_fork() -> None:
    cache = KVCache(1, HEADS, D, window=64)
    many = tokens(1, 3000)

    def append() -> None:
        cache.append(many, many)  # most of the time without the GIL, and with the lock

    def child() -> None:
        length = int(cache.lengths[0])
        cache.append(ZERO, ZERO)
        assert cache.lengths[0] == length + 1
        assert (cache.keys[:, :, -2] == 1).all()

    append()
    context = multiprocessing.get_context("fork")
    with running(append, threads=1) as wrong:
        for _ in range(20):
            process = context.Process(target=child)
            process.start()
            process.join(60)
            process.kill()
            assert process.exitcode == 0
    assert wrong == []
