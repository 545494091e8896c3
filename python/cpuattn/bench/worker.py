"""The process of one engine, which `process.EngineProcess` starts with the engine's name.

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
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from cpuattn.bench.case import Case
from cpuattn.bench.engines import ENGINES, Call, Prepared
from cpuattn.bench.memory import call_and_measure
from cpuattn.bench.peak import fma_peak, read_peak

# Calls that end sooner are timed together: reading the clock costs 0.05 µs, and an interrupt in
# between would be most of such a sample.
SHORTEST_SAMPLE = 1e-3
# So long a call is timed at once: what the caches held when it began is nothing in it.
LONG_CALL = 0.5
WARM_UP = Case("warm up", 1, 2, 2, 32, 32, 64)
PR_SET_PDEATHSIG = 1


class Worker:
    """Answers for one engine."""

    def __init__(self, engine: str) -> None:
        self._engine = ENGINES[engine]
        self._prepared = Prepared(())
        self._warm_on = 0
        self._next: Iterator[Call] = iter(())

    def versions(self) -> dict[str, str]:
        """Name the packages that do the work, and their versions."""
        return self._engine.versions()

    def prepare(self, case: dict[str, Any], threads: int) -> None:
        """Make the calls of a case. A smaller one runs, so that threads and libraries are up."""
        self._prepared = Prepared(())  # the last case gives its memory back first
        self._next = iter(())
        if self._warm_on != threads:
            for call in self._engine.prepare(WARM_UP, threads).calls:
                call()
            self._warm_on = threads
        self._prepared = self._engine.prepare(Case(**case), threads)
        self._next = cycle(self._prepared.calls)

    def check(self, path: str) -> int | None:
        """Call once: save the result to a file and return the bytes that the call added."""
        self._prepared.rewind()
        result, extra_bytes = call_and_measure(self._prepared.calls[0])
        array = self._prepared.read(result)
        # A file has no bfloat16.
        np.save(path, array if array.dtype == np.float64 else array.astype(np.float32))
        return extra_bytes

    def time(self, seconds: float) -> float:
        """Call for about this many seconds, at least once, and return the median of one call."""
        self._prepared.rewind()
        gc.collect()
        gc.disable()
        once = self._sample(1)  # untimed in effect: the other engines have had the caches
        if once > LONG_CALL:
            gc.enable()
            return once
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

    def limits(self, dtype: str, threads: int, seconds: float) -> tuple[float, float]:
        """Measure the rates of multiply-adds, in GFLOP/s, and of reads from memory, in GB/s."""
        return fma_peak(dtype, threads, seconds), read_peak(threads, seconds)


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
