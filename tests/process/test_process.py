"""What a process may do to a library: end, run out of threads, change its floating-point state."""

import ctypes
import ctypes.util
import platform
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cpuattn
from oracle import Array
from scripts import run_python, start_python

LOOP = """
import threading, time
import numpy as np
import cpuattn

x = np.ones((1, 4, 200, 64), np.float32)
cache = cpuattn.KVCache(1, 4, 64, dtype=np.float16)

def loop():
    while True:
        {call}

for _ in range(2):
    threading.Thread(target=loop, daemon=True).start()
time.sleep(0.2)
"""


@pytest.mark.parametrize(
    "call",
    [
        "cpuattn.attention(x, x, x, num_threads=1)",
        "cpuattn.attention(x, x, x, num_threads=2)",
        "cpuattn.attention_weights(x, x)",
        "cpuattn.KVCache(1, 4, 64, dtype=np.float16).append(x, x)",
        "cpuattn.attention(np.ones((1, 4, 5000, 64), np.float32), x, x)",
    ],
)
def test_interpreter_ends_while_threads_call(call: str) -> None:
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(start_python, ["-c"] * 3, [LOOP.format(call=call)] * 3))
    assert [(each.returncode, each.stderr) for each in results] == [(0, "")] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="limits of threads as on Linux")
def test_no_more_threads_to_be_had() -> None:
    script = """
import os, resource
import numpy as np
import cpuattn

x = np.random.default_rng(0).standard_normal((64, 100, 16)).astype(np.float32)
expected = cpuattn.attention(x, x, x, num_threads=1)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
if os.getuid() == 0:  # who has no such limit
    os.setgroups([])
    os.setgid(12345)
    os.setuid(12345)
assert np.array_equal(cpuattn.attention(x, x, x, num_threads=8), expected)
"""
    run_python("-c", script, environment={"OPENBLAS_NUM_THREADS": "1"})


def test_absurdly_many_threads() -> None:
    script = """
import numpy as np
import cpuattn

x = np.random.default_rng(0).standard_normal((500, 100, 16)).astype(np.float32)
expected = cpuattn.attention(x, x, x, num_threads=1)
assert np.array_equal(cpuattn.attention(x, x, x, num_threads=2**31), expected)
"""
    run_python("-c", script)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as on Linux")
def test_no_memory_for_threads() -> None:
    script = """
import resource
import numpy as np
import cpuattn

x = np.random.default_rng(0).standard_normal((8, 700, 64)).astype(np.float32)
out = np.empty_like(x)
expected = cpuattn.attention(x, x, x, num_threads=1)
pages = int(open("/proc/self/statm").read().split()[0])
for megabytes in (0, 1, 2, 3, 5, 8, 12):
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        cpuattn.attention(x, x, x, num_threads=6, out=out)
        result = "right" if np.array_equal(out, expected) else "wrong"
    except MemoryError:
        result = "MemoryError"
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    assert result in ("right", "MemoryError"), (megabytes, result)
    assert np.array_equal(cpuattn.attention(x, x, x, num_threads=6), expected)
"""
    run_python("-c", script)


# Made in the default state.
QUERY_AND_KEY = np.random.default_rng(0).standard_normal((2, 16, 400, 16), dtype=np.float32)


def results(value: Array) -> list[Array]:
    """Attend with one thread and with two, with many rows and with few, and store narrowly."""
    query, key = QUERY_AND_KEY
    cache = cpuattn.KVCache(1, 16, 16, dtype=np.float16)
    cache.append(value[None], value[None])
    return [
        cpuattn.attention(rows, key, value, num_threads=num_threads)
        for rows in (query, query[:, :1])
        for num_threads in (1, 2)
    ] + [cache.values.astype(np.float32), cpuattn.attention_weights(query, key)]


@pytest.mark.skipif(sys.platform != "linux", reason="the C library by its name on Linux")
@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_rounding_mode_of_the_caller(size: float) -> None:
    name = ctypes.util.find_library("m")
    assert name
    libm = ctypes.CDLL(name)
    rng = np.random.default_rng(1)
    value = (size * rng.standard_normal((16, 400, 16))).astype(np.float32)
    expected = results(value)
    mode = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())  # FE_UPWARD
    if mode is None:
        pytest.skip("the number of this rounding mode is not known here")
    assert libm.fesetround(mode) == 0
    try:
        got = results(value)
        assert libm.fegetround() == mode
    finally:
        libm.fesetround(0)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_flush_to_zero_of_the_caller() -> None:
    torch = pytest.importorskip("torch")
    value = np.full((16, 400, 16), 1e-40, np.float32)
    expected = results(value)
    assert (expected[0] > 0).all()
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormal numbers to zero")
    try:
        got = results(value)
    finally:
        torch.set_flush_denormal(False)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_small_stacks() -> None:
    """docs/semantics.md promises that 64 KiB are enough."""
    script = """
import threading
import numpy as np
import cpuattn
from cpuattn import _core

rng = np.random.default_rng(0)
failed = []

def call():
    for isa in cpuattn.isas():
        _core._use_isa(isa)
        for dtype in (np.float16, np.float32, np.float64):
            for queries, keys in ((200, 300), (1, 2000), (4, 900)):
                query = rng.standard_normal((2, 4, queries, 64)).astype(dtype)
                key = rng.standard_normal((2, 4, keys, 64)).astype(dtype)
                cpuattn.attention(query, key, key, causal=True, softcap=3.0, num_threads=2)
                cpuattn.attention_weights(query, key)
    done.append(True)

done = []
threading.stack_size(64 * 1024)
thread = threading.Thread(target=call)
thread.start()
thread.join()
assert done
"""
    run_python("-c", script, environment={"OMP_STACKSIZE": "16k"})


def test_import_in_a_sub_interpreter_is_refused() -> None:
    script = """
try:
    import _interpreters as interpreters
    create = lambda: interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    create = interpreters.create
interpreters.run_string(create(), '''
import warnings
warnings.simplefilter("ignore")  # NumPy's own
try:
    import cpuattn
except ImportError as error:
    assert "sub-interpreter" in str(error), error
else:
    raise AssertionError
''')
import cpuattn
"""
    run_python("-c", script)


def test_threads_come_and_go() -> None:
    """Calls leave nothing behind in a thread that ends."""
    x = np.ones((1, 4, 60, 16), np.float32)
    expected = cpuattn.attention(x, x, x)
    results: list[Array] = []

    def call() -> None:
        results.append(cpuattn.attention(x, x, x))

    before = threading.active_count()
    for _ in range(200):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert threading.active_count() == before
    assert all(np.array_equal(out, expected) for out in results)
