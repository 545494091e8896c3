"""Calls in a process that forked after its parent had used threads: right, and no hang."""

# https://github.com/scikit-learn/scikit-learn/issues/7650, #19272; LightGBM#1789, #4751;
# xgboost#7044; numpy#30092; loky#248.
import ctypes.util
import multiprocessing
from pathlib import Path

import pytest

from scripts import run_python

SETUP = """
import multiprocessing, os, signal, sys, threading, warnings
import numpy as np
import cpuattn

# Python 3.12 warns of a fork beside threads; here it is the point.
warnings.simplefilter("ignore", DeprecationWarning)
x = np.random.default_rng(0).standard_normal((2, 4, 200, 16)).astype(np.float32)

def use(num_threads=4):
    many = cpuattn.attention(x, x, x, causal=True, num_threads=num_threads)
    few = cpuattn.attention(x[:, :, :1], x, x, num_threads=num_threads)
    return many, few

def same(results, expected):
    return all(np.array_equal(a, b) for a, b in zip(results, expected))

def in_child(check):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs is killed: the parent sees it in the status
        os._exit(0 if check() else 1)
    assert os.waitpid(child, 0)[1] == 0
"""

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)


def test_fork_after_use() -> None:
    script = """
expected = use()
for _ in range(3):
    in_child(lambda: same(use(), expected))
assert same(use(), expected)
"""
    run_python("-c", SETUP + script)


def test_fork_before_use() -> None:
    script = """
for _ in range(2):
    in_child(lambda: same(use(), use(1)))
assert same(use(), use(1))
"""
    run_python("-c", SETUP + script)


def test_fork_of_a_fork() -> None:
    script = """
expected = use()
def child():
    ok = same(use(), expected)
    in_child(lambda: same(use(), expected))
    return ok and same(use(), expected)
in_child(child)
"""
    run_python("-c", SETUP + script)


def test_fork_while_another_thread_calls() -> None:
    script = """
expected = use()
stop = threading.Event()
def work():
    while not stop.is_set():
        use()
thread = threading.Thread(target=work)
thread.start()
for _ in range(10):
    in_child(lambda: same(use(), expected))
stop.set()
thread.join()
assert same(use(), expected)
"""
    run_python("-c", SETUP + script)


def test_settings_and_plan_in_a_child() -> None:
    script = """
use()
def child():
    cpuattn.set_num_threads(3)
    plan = cpuattn.explain(x, x, x)
    return cpuattn.get_num_threads() == 3 and plan["threads"] == 3
in_child(child)
"""
    run_python("-c", SETUP + script)


# Also where cpuattn comes after the fork. libgomp is what torch and scikit-learn use on Linux.
OTHER_RUNTIME = """
import ctypes, ctypes.util
runtime = ctypes.CDLL(ctypes.util.find_library("gomp"))
nothing = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
def parallel_region():
    runtime.GOMP_parallel(nothing, None, 4, 0)
"""


@pytest.mark.skipif(not ctypes.util.find_library("gomp"), reason="no libgomp on this system")
@pytest.mark.parametrize("imported_before", [True, False])
def test_fork_after_another_library_used_openmp(imported_before: bool) -> None:
    before = "expected = use()" if imported_before else "del cpuattn"
    setup = SETUP if imported_before else SETUP.replace("import cpuattn\n", "cpuattn = None\n")
    script = f"""
{OTHER_RUNTIME}
{before}
parallel_region()
def child():
    global cpuattn
    import cpuattn
    return same(use(), use(1))
in_child(child)
"""
    run_python("-c", setup + script)


@pytest.mark.parametrize("rows", [200, 1])
def test_fork_inside_of_a_call(rows: int) -> None:
    """Ctrl-C and the like run Python code in the middle of a call, which may fork."""
    keys = 100_000 if rows == 1 else 2000
    script = f"""
rng = np.random.default_rng(1)
query = rng.standard_normal((16, 8, {rows}, 64), dtype=np.float32)
key = np.broadcast_to(rng.standard_normal(({keys}, 64), dtype=np.float32),
                      (16, 8, {keys}, 64))
def call(num_threads):
    return cpuattn.attention(query, key, key, num_threads=num_threads)
expected = call(1)
parent, children = os.getpid(), []
def fork(*_):
    if os.getpid() != parent or len(children) >= 3:
        return
    child = os.fork()
    if child == 0:
        signal.alarm(30)
    else:
        children.append(child)
signal.signal(signal.SIGUSR1, fork)
for _ in range(100):
    if len(children) >= 3:
        break
    threading.Timer(0.02, os.kill, (parent, signal.SIGUSR1)).start()
    ok = np.array_equal(call(2), expected)
    if os.getpid() != parent:
        os._exit(0 if ok and np.array_equal(call(2), expected) else 1)
    assert ok
assert len(children) >= 1
assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
"""
    run_python("-c", SETUP + script)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    script = f"""
def worker(i):
    return use(1 + i % 4)

if __name__ == "__main__":
    expected = use()
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        results = pool.map_async(worker, range(6)).get(timeout=50)
    assert len(results) == 6
    assert all(same(result, expected) for result in results)
"""
    file = tmp_path / "script.py"  # the children import it
    file.write_text(SETUP + script)
    run_python(str(file))
