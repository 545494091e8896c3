"""An exception at any moment, as Ctrl-C raises it, leaves a cache as before a call or as after it.

`sys.settrace` raises one before every single bytecode of the package in turn: CPython runs signal
handlers between bytecodes, and nothing else can raise at fewer places.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import cpuattn
from cache_steps import KEY, STEPS, VALUE, before_and_after, kv, numbers, same

PACKAGE = str(Path(cpuattn.__file__).parent)


class Interrupted(BaseException):
    """What a signal handler raises."""


def interrupt(call: Callable[[], Any], at: int) -> bool:
    """Raise before bytecode number `at` of the package; tell whether the call has as many."""
    seen = 0

    def each(_frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal seen
        seen += event == "opcode"
        if event == "opcode" and seen == at:
            raise Interrupted
        return each

    def enter(frame: FrameType, _event: str, _arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return each

    tracing = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    except Interrupted:
        return True
    finally:
        sys.settrace(tracing)
    return False


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="bytecodes are CPython's")
@pytest.mark.parametrize("name", STEPS)
def test_an_exception_at_any_bytecode(name: str) -> None:
    step = STEPS[name]
    before, after = before_and_after(step)
    places, in_between = 0, []
    while True:
        cache = step.make()
        if not interrupt(lambda: step.do(cache), places + 1):  # noqa: B023 (called at once)
            break
        places += 1
        seen = step.look(cache)
        if not same(seen, before) and not same(seen, after):
            in_between.append(places)
    assert in_between == []
    assert places >= 10


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals here")
def test_signals_that_raise_in_a_windowed_append() -> None:
    def handler(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    token = numbers(4, 2, 1, 8)
    full = cpuattn.KVCache(4, 2, 8, window=64, capacity=160)
    for _ in range(160):
        full.append(token, token)
    previous = signal.signal(signal.SIGALRM, handler)
    rng = np.random.default_rng(0)
    try:
        for seconds in rng.uniform(1e-6, 4e-4, 400):
            cache = full.copy()
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                while True:
                    cache.append(token, token)
            except Interrupted:
                pass
            held = int(cache.lengths[0] - cache.dropped[0])
            np.testing.assert_array_equal(cache.keys, token.repeat(held, axis=2))
            np.testing.assert_array_equal(cache.values, token.repeat(held, axis=2))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_a_handler_may_use_the_cache_that_it_interrupts() -> None:
    """At every bytecode of an append another one, in the same thread: both have their tokens."""
    step = kv([3, 3, 3], lambda c: c.append(KEY, VALUE), window=3, capacity=9)
    other = numbers(2, 2, 2, 3, 8, seed=5)
    places = 0
    while True:
        cache = step.make()

        class Handler(BaseException):
            pass

        at, seen, entered = places + 1, 0, False

        def each(_frame: FrameType, event: str, _arg: Any) -> Any:
            nonlocal seen, entered
            seen += event == "opcode"
            if seen == at and not entered:  # noqa: B023 (called at once)
                entered = True
                cache.append(*other)  # noqa: B023 (called at once)
            return each

        def enter(frame: FrameType, _event: str, _arg: Any) -> Any:
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes = True
            return each

        tracing = sys.gettrace()
        sys.settrace(enter)
        try:
            cache.append(KEY, VALUE)
        finally:
            sys.settrace(tracing)
        if not entered:
            break
        places += 1
        assert cache.lengths.tolist() == [15, 15]
        last = cache.keys[:, :, -6:]
        orders = ((KEY, other[0]), (other[0], KEY))
        assert any(np.array_equal(last, np.concatenate(x, axis=2)) for x in orders), places
    assert places >= 10
