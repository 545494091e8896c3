"""The process of one engine: ``python -m cpuattn.bench.worker ENGINE``.

It answers one line of JSON on its standard output for each line on its standard input. The
methods of `Worker` are the commands, their parameters the fields beside "do".
"""

import ctypes
import gc
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from cpuattn.bench.cases import Case
from cpuattn.bench.engines import ENGINES, Call
from cpuattn.bench.memory import call_and_measure
from cpuattn.bench.peak import fma_peak

# Calls that end sooner are timed together: reading the clock costs 0.05 µs, and an interrupt in
# between would be most of such a sample.
SHORTEST_SAMPLE = 1e-3
PR_SET_PDEATHSIG = 1


class Worker:
    """Answers for one engine."""

    def __init__(self, engine: str) -> None:
        self._engine = ENGINES[engine]
        self._calls: Sequence[Call] = ()
        self._next: Iterator[Call] = iter(())

    def versions(self) -> dict[str, str]:
        """Name the packages that do the work, and their versions."""
        return self._engine.versions()

    def prepare(self, case: dict[str, Any], threads: int) -> None:
        """Make the calls of a case. A smaller one runs, so that threads and libraries are up."""
        shape = Case("warm up", 1, 2, 2, 32, 32, 64, dtype=case["dtype"])
        for call in self._engine.prepare(shape, threads):
            call()
        self._calls = self._engine.prepare(Case(**case), threads)
        self._next = cycle(self._calls)

    def check(self, path: str) -> int | None:
        """Call once: save the result to a file and return the bytes that the call added."""
        result, extra_bytes = call_and_measure(self._calls[0])
        np.save(path, np.asarray(result))
        return extra_bytes

    def time(self, seconds: float) -> float:
        """Call for about so many seconds, at least once, and return the median of one call."""
        gc.collect()
        gc.disable()
        once = self._sample(1)  # untimed in effect: the other engines have had the caches
        repeats = max(1, round(SHORTEST_SAMPLE / max(once, 1e-9)))
        if repeats > 1:
            once = self._sample(repeats)
            repeats = max(1, round(SHORTEST_SAMPLE / once))
        end = time.perf_counter() + seconds
        samples = [self._sample(repeats)]
        while time.perf_counter() < end:
            samples.append(self._sample(repeats))
        gc.enable()
        return statistics.median(samples)

    def _sample(self, repeats: int) -> float:
        calls = [next(self._next) for _ in range(repeats)]
        start = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - start) / repeats

    def peak(self, dtype: str, threads: int, seconds: float) -> float:
        """Measure the multiply-add rate, in GFLOP/s."""
        return fma_peak(dtype, threads, seconds)


def answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a command; a failure becomes an answer too."""
    command: Callable[..., Any] = getattr(worker, request.pop("do"))
    try:
        return {"result": command(**request)}
    except Exception as error:  # noqa: BLE001 (whatever the engine raises, the parent reports)
        return {"error": f"{type(error).__name__}: {error}"}


def end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however that ends.

    While another engine is timed this one is stopped, and could not see that nobody is there.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Serve until the standard input ends."""
    end_with_parent()
    # What a library prints must not come between the answers.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        worker = Worker(sys.argv[1])
        for line in sys.stdin:
            answers.write(json.dumps(answer(worker, json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
