"""Calls in a process that forked after its parent had used threads: right, and no hang."""

# https://github.com/scikit-learn/scikit-learn/issues/7650, #19272; LightGBM#1789, #4751;
# xgboost#7044; numpy#30092; loky#248.
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
    return cpuattn.get_num_threads() == 3 and plan["threads"] == 1
in_child(child)
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
