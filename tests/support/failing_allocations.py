"""Run by test_cache_allocations.py: every allocation of every operation of a cache fails in turn.

Prints what is wrong, one finding a line.
"""

# ruff: noqa: T201 (it is there to print)

import gc
import sys
from typing import Any

sys.path.insert(0, sys.argv[1])
from failing_call import attempt  # type: ignore[import-not-found]  # built by the test

from cache_steps import STEPS, before_and_after, same


def is_theirs(error: BaseException) -> bool:
    """Whether NumPy or CPython lost a MemoryError of their own: ours would come from the core."""
    return isinstance(error, SystemError) and "built-in" not in str(error)


def run(name: str) -> None:
    """Let one allocation after the other fail, alone and with all later ones, in one operation."""
    step = STEPS[name]
    before, after = before_and_after(step)
    for all_later in (0, 1):
        number, failures = 0, 1
        while failures:
            number += 1
            cache = step.make()

            def call(cache: Any = cache) -> None:
                step.do(cache)

            error, failures = attempt(call, number, all_later)
            if error is not None and not isinstance(error, MemoryError) and not is_theirs(error):
                print(f"{name}, allocation {number}, {all_later}: {error!r}", flush=True)
            del error  # what it refers to is a frame, and a cache
            seen = step.look(cache)
            if not same(seen, before) and not same(seen, after):
                print(f"{name}, allocation {number}, {all_later}: neither", flush=True)
    print("done:", name, flush=True)


gc.disable()
for each in sys.argv[2:]:
    run(each)
