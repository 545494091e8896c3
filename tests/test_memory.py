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

# Inputs and output exist, and were touched, before the peak is reset.
SCRIPT = """
import numpy as np
import cpuattn

def kib(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

query, key, value = (np.ones(each, "{dtype}") for each in ({query}, {key}, {value}))
options = {options}
out = np.ones((*query.shape[:-1], value.shape[-1]), query.dtype)
plan = cpuattn.explain(query, key, value, out=out, num_threads={threads}, **options)
x = np.ones((64, 10, 2), query.dtype)
cpuattn.attention(x, x, x, num_threads={threads})  # the threads and their stacks
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = kib("VmRSS")
cpuattn.attention(query, key, value, out=out, num_threads={threads}, **options)
print((kib("VmHWM") - before) * 1024, plan["scratch_bytes"])
"""
CASES: dict[str, dict[str, Any]] = {
    "long": {"query": (2, 4096, 64), "key": (2, 4096, 64), "options": "{}"},
    "causal": {"query": (2, 4096, 64), "key": (2, 4096, 64), "options": "{'causal': True}"},
    "wide": {"query": (2, 500, 256), "key": (2, 500, 256), "options": "{}"},
    "widest": {"query": (2, 70, 2048), "key": (2, 1500, 2048), "options": "{}"},
    "mla": {"query": (16, 64, 576), "key": (1, 900, 576), "options": "{}"},
    "few rows": {"query": (32, 1, 128), "key": (8, 20000, 128), "options": "{}"},
    "grouped": {"query": (64, 3, 64), "key": (1, 50000, 64), "options": "{'sinks': np.ones(64)}"},
    "masked": {
        "query": (4, 2000, 32),
        "key": (4, 2000, 32),
        "options": "{'mask': np.ones((1, 2000), bool), 'bias': np.ones((1, 2000))}",
    },
}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_peak(name: str, dtype: str, threads: int) -> None:
    arguments = CASES[name] | {"value": CASES[name]["key"], "dtype": dtype, "threads": threads}
    extra, scratch = map(int, run_python("-c", SCRIPT.format(**arguments)).split())
    assert scratch <= 2 * MIB * threads
    assert extra <= 2 * MIB * threads


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
