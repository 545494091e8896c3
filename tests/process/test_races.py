"""Other threads write to the integers of a call, or choose another ISA, while it runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import cpuattn
from cpuattn import _core
from scripts import run_python


@contextmanager
def meanwhile(change: Callable[[], object]) -> Iterator[None]:
    """Call `change` again and again on another thread."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            change()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# Stray reads end the process, so this runs in its own. The call takes long, and the arrays change
# once in the middle of it.
SCRIPT = """
import threading, time
import numpy as np
import cpuattn

ones = lambda *shape: np.ones(shape, np.float32)
pages = np.random.default_rng(0).standard_normal((100, 1, 16, 64), dtype=np.float32)
packed = np.random.default_rng(0).standard_normal((6000, 1, 64), dtype=np.float32)
table, lengths = np.zeros((4, 1250), np.int64), np.full(4, 20000)
offset, ends = np.zeros(4, np.int64), np.array([0, 3000, 6000])
changed = {name}
calls = {{
    "table": lambda: cpuattn.attention(
        ones(4, 1, 300, 64), pages, pages, block_table=table, key_lengths=lengths, num_threads=1),
    "offset": lambda: cpuattn.attention(
        ones(4, 1, 2000, 64), ones(1, 1, 4000, 64), ones(1, 1, 4000, 64), causal=True,
        query_offset=offset, num_threads=1),
    "ends": lambda: cpuattn.attention_varlen(packed, packed, packed, ends, ends, num_threads=1),
}}
call = calls["table" if "{name}" == "lengths" else "{name}"]
expected = call()
times = []
for _ in range(3):
    start = time.monotonic()
    call()
    times.append(time.monotonic() - start)
kept = changed.copy()
def change():
    time.sleep(min(times) / 3)
    changed[...] = 10**12
thread = threading.Thread(target=change)
thread.start()
got = call()
thread.join()
assert (changed == 10**12).all()
np.testing.assert_array_equal(got, expected)
"""


@pytest.mark.parametrize("name", ["table", "lengths", "offset", "ends"])
def test_integers_change_during_a_call(name: str) -> None:
    run_python("-c", SCRIPT.format(name=name))


def test_block_table_changes_while_it_is_checked() -> None:
    pages = np.ones((4, 1, 16, 8), np.float32)
    table, lengths = np.zeros((1, 4000), np.int64), [64000]
    query = np.ones((1, 1, 1, 8), np.float32)

    def flip() -> None:
        table[0, 2000] = 2**40
        table[0, 2000] = 0

    refused = 0
    with meanwhile(flip):
        for _ in range(300):
            try:
                out = cpuattn.attention(query, pages, pages, block_table=table, key_lengths=lengths)
            except ValueError:
                refused += 1
            else:
                np.testing.assert_allclose(out, 1, rtol=1e-6)
    assert refused < 300


@pytest.mark.parametrize("kind", ["plain", "weights", "packed", "explain"])
def test_the_isa_changes_during_a_call(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 64, 8), dtype=np.float32)
    packed, ends = x.swapaxes(0, 1), [0, 3, 64]

    def call() -> Any:
        if kind == "plain":
            return cpuattn.attention(x, x, x).tobytes()
        if kind == "weights":
            return cpuattn.attention_weights(x, x).tobytes()
        if kind == "packed":
            return cpuattn.attention_varlen(packed, packed, packed, ends, ends).tobytes()
        plan = cpuattn.explain(x, x, x)
        return plan["isa"], plan["query_block"], plan["products"]

    before = cpuattn.explain(x, x, x)["isa"]
    names = [before, "scalar"]
    expected = []
    for name in names:
        _core._use_isa(name)
        expected.append(call())

    def flip() -> None:
        for name in names:
            _core._use_isa(name)

    try:
        with meanwhile(flip):
            for _ in range(500):
                assert call() in expected
    finally:
        _core._use_isa(before)
