"""Memory beyond the output: at most 2 MiB for each thread, whatever the lengths."""

import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import Shape
from oracle import Dtype
from scripts import run_python

MIB = 2**20

# Inputs and output exist, and were touched, before the peak is reset. What one case leaves in the
# process must not serve the next: each is a child of its own, forked before cpuattn has threads.
SCRIPT = """
import os
import numpy as np
import cpuattn

def kib(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

def measure(query, key, options):
    query, key, value = (np.ones(each, "{dtype}") for each in (query, key, key))
    out = np.ones((*query.shape[:-1], value.shape[-1]), query.dtype)
    plan = cpuattn.explain(query, key, value, out=out, num_threads={threads}, **options)
    x = np.ones((64, 10, 2), query.dtype)
    cpuattn.attention(x, x, x, num_threads={threads})  # the threads and their stacks
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = kib("VmRSS")
    cpuattn.attention(query, key, value, out=out, num_threads={threads}, **options)
    return (kib("VmHWM") - before) * 1024, plan["scratch_bytes"]

for name, (query, key, options) in {cases}.items():
    child = os.fork()
    if child == 0:
        print(name, *measure(query, key, eval(options)), sep=":", flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""
CASES = {
    "long": ((2, 4096, 64), (2, 4096, 64), "{}"),
    "causal": ((2, 4096, 64), (2, 4096, 64), "{'causal': True}"),
    "wide": ((2, 500, 256), (2, 500, 256), "{}"),
    "widest": ((2, 70, 2048), (2, 1500, 2048), "{}"),
    "mla": ((16, 64, 576), (1, 900, 576), "{}"),
    "few rows": ((32, 1, 128), (8, 20000, 128), "{}"),
    "grouped": ((64, 3, 64), (1, 50000, 64), "{'sinks': np.ones(64)}"),
    "masked": (
        (4, 2000, 32),
        (4, 2000, 32),
        "{'mask': np.ones((1, 2000), bool), 'bias': np.ones((1, 2000))}",
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peak(dtype: str, threads: int) -> None:
    script = SCRIPT.format(cases=CASES, dtype=dtype, threads=threads)
    lines = [line.split(":") for line in run_python("-c", script).splitlines()]
    assert [name for name, _, _ in lines] == list(CASES)
    for name, extra, scratch in lines:
        assert int(scratch) <= 2 * MIB * threads, name
        assert int(extra) <= 2 * MIB * threads, name


@pytest.mark.parametrize("queries", [1, 700])
def test_python_allocates_nothing_large(queries: int) -> None:
    """Strided inputs, broadcast masks and long lists of options included."""
    rng = np.random.default_rng(0)
    query, key, value = Shape(queries, 20000, head_dim=16).arrays(rng, np.float32)
    key, value = (x.swapaxes(1, 2).copy().swapaxes(1, 2) for x in (key, value))
    out = np.empty_like(query)
    options: dict[str, Any] = {
        "mask": np.ones(20000, bool),
        "key_lengths": [7, 9],
        "window": (100, 0),
    }
    cpuattn.attention(query, key, value, out=out, **options)
    tracemalloc.start()
    cpuattn.attention(query, key, value, out=out, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 1024


# (queries, head_dim); 9 rows and more take the forward kernel.
NARROW = ((1, 64), (1, 128), (8, 128), (64, 64), (2**20, 128), (2**16, 576))
WIDE = tuple((queries, dim) for queries in (1, 8, 9, 1000) for dim in (1024, 1152, 1536, 2048))


def test_scratch_does_not_grow_with_the_lengths(isa: str, dtype: Dtype) -> None:
    assert isa in cpuattn.isas()
    one = np.zeros((), dtype)
    for queries, head_dim in NARROW + WIDE:
        query = np.broadcast_to(one, (queries, head_dim))
        plans = [
            cpuattn.explain(query, key, key, num_threads=2)
            for key in (np.broadcast_to(one, (keys, head_dim)) for keys in (700, 10**5, 10**9))
        ]
        for plan in plans:
            assert plan["scratch_bytes"] <= 2 * MIB * plan["threads"]


def test_failed_allocation_is_a_memory_error() -> None:
    one = np.ones((), np.float32)
    many = np.broadcast_to(one, (2**25, 1))
    with pytest.raises(MemoryError):
        cpuattn.attention_weights(many, many)  # the result: 4 PiB
    wide = np.broadcast_to(one, (1, 2**44))
    with pytest.raises(MemoryError):
        cpuattn.attention(wide, wide, np.ones((1, 1), np.float32))  # one transposed query: 64 TiB
