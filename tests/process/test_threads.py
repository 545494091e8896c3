"""The number of threads, many Python threads at once, and the GIL."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cpuattn
from cases import Shape, make_case
from oracle import Array
from scripts import run_python


@pytest.fixture
def _restore() -> Iterator[None]:
    before = cpuattn.get_num_threads()
    yield
    cpuattn.set_num_threads(before)


@pytest.mark.usefixtures("_restore")
def test_set_and_get() -> None:
    arrays = Shape(200, 200, heads=8, batch=2).arrays(np.random.default_rng(0), np.float32)
    for number in (1, 2, 5):
        cpuattn.set_num_threads(number)
        assert cpuattn.get_num_threads() == number
        assert cpuattn.explain(*arrays)["threads"] == number
        assert cpuattn.explain(*arrays, num_threads=3)["threads"] == 3
        assert cpuattn.get_num_threads() == number


def test_no_more_threads_than_work() -> None:
    arrays = Shape(1, 5, heads=1, kv_heads=1, batch=1).arrays(np.random.default_rng(0), np.float32)
    plan = cpuattn.explain(*arrays, num_threads=64)
    assert plan["threads"] <= max(plan["work_items"], 1)


def test_many_python_threads_at_once(isa: str) -> None:
    assert isa in cpuattn.isas()
    shapes = [
        Shape(queries, keys, head_dim=head_dim)
        for queries, keys, head_dim in ((1, 900, 16), (3, 40, 5), (70, 150, 8), (130, 300, 20))
    ]
    cases = [make_case(shape, np.float32, names) for shape in shapes for names in ((), ("causal",))]

    def call(i: int) -> Array:
        case = cases[i % len(cases)]
        out: Array = cpuattn.attention(*case.arrays, **case.options, num_threads=1 + i % 3)
        return out

    expected = [call(i) for i in range(len(cases))]
    with ThreadPoolExecutor(8) as pool:
        for i, out in enumerate(pool.map(call, range(200))):
            np.testing.assert_array_equal(out, expected[i % len(cases)])


@pytest.mark.parametrize("queries", [1, 1500])
def test_other_python_threads_run_meanwhile(queries: int) -> None:
    keys = 1_500_000_000 // (queries * 64)
    query = np.ones((queries, 64), np.float32)
    key = np.broadcast_to(np.float32(1), (keys, 64))
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    other = threading.Thread(target=tick)
    other.start()
    start = time.monotonic()
    cpuattn.attention(query, key, key, num_threads=1)
    end = time.monotonic()
    done.set()
    other.join()
    # In the middle of the call: whoever holds the GIL lets others in at its ends.
    margin = (end - start) / 4
    assert sum(start + margin < t < end - margin for t in ticks) >= 2


def test_import_starts_no_threads() -> None:
    script = "import cpuattn, threading, os; print(len(os.listdir('/proc/self/task')))"
    if not os.path.isdir("/proc/self/task"):  # noqa: PTH112
        pytest.skip("no /proc on this system")
    # NumPy's own BLAS starts threads at import.
    assert int(run_python("-c", script, environment={"OPENBLAS_NUM_THREADS": "1"})) == 1
