"""Measure attention in turn with another library's products: python benchmarks/in_turn.py.

A model calls attention between matrix products. Idle threads of the library that makes these spin
for a while, on CPUs that attention wants. Every step is measured apart and in turn, with the
default number of threads, in a process for each library. Apart, the calling thread reads the other
one's arrays before each call: the caches hold the same in both measurements.

Writes benchmarks/in_turn.json, from which report.py makes a table of docs/performance.md.
"""

import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tables import table

import cpuattn
from cpuattn.bench.machine import describe
from cpuattn.bench.table import digits, duration

FILE = Path(__file__).parent / "in_turn.json"
LIBRARIES = {"NumPy": "numpy", "torch": "torch"}
ROUNDS, CALLS = 7, 60
LONGEST_SPIN = 0.2  # seconds, after which idle threads of all libraries sleep

Arrays = list[NDArray[np.float32]]
Call = Callable[[], object]


class Step(NamedTuple):
    """A product of (rows, inner) and (inner, columns), then attention of as many queries."""

    name: str
    rows: int
    inner: int
    columns: int
    heads: int
    kv_heads: int
    keys: int
    head_dim: int


STEPS = [
    Step("decode, small", 1, 576, 1536, 9, 3, 250, 64),
    Step("decode", 1, 1024, 1024, 32, 8, 1000, 64),
    Step("decode, wide layers", 1, 2048, 2048, 32, 8, 1000, 64),
    Step("decode, long cache", 1, 2048, 2048, 32, 8, 4096, 128),
    Step("64 rows", 64, 576, 1536, 9, 3, 64, 64),
    Step("256 rows", 256, 576, 1536, 9, 3, 256, 64),
    Step("prefill", 1024, 576, 1536, 9, 3, 1024, 64),
]


def product(module: str, step: Step) -> tuple[Call, Arrays]:
    """Give the call of a library's matrix product, and its arrays."""
    rng = np.random.default_rng(0)
    left, right = (
        rng.standard_normal(shape, dtype=np.float32)
        for shape in ((step.rows, step.inner), (step.inner, step.columns))
    )
    out = np.empty((step.rows, step.columns), np.float32)
    if module == "numpy":
        return lambda: np.matmul(left, right, out=out), [left, right]
    torch: Any = importlib.import_module(module)
    a, b, c = (torch.from_numpy(array) for array in (left, right, out))
    return lambda: torch.mm(a, b, out=c), [left, right]


def attention(step: Step) -> tuple[Call, Arrays]:
    """Give the call of attention, and its arrays."""
    rng = np.random.default_rng(1)
    query, key, value = (
        rng.standard_normal((1, heads, length, step.head_dim), dtype=np.float32)
        for heads, length in (
            (step.heads, step.rows),
            (step.kv_heads, step.keys),
            (step.kv_heads, step.keys),
        )
    )
    out = np.empty_like(query)
    return lambda: cpuattn.attention(query, key, value, causal=True, out=out), [key, value]


def in_turn(first: Call, second: Call) -> Call:
    """Make one call of two."""

    def both() -> None:
        first()
        second()

    return both


def typical(call: Call, read_before: Sequence[NDArray[np.float32]] = ()) -> float:
    """Give the median time of a call, once the threads of earlier calls sleep."""
    time.sleep(LONGEST_SPIN)
    times = []
    for _ in range(CALLS):
        for array in read_before:
            array.max()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[CALLS // 10 :])


def measure(library: str) -> list[dict[str, float | str]]:
    """Measure all steps beside one library: medians of the rounds, in seconds."""
    found: list[dict[str, float | str]] = []
    for step in STEPS:
        multiply, weights = product(LIBRARIES[library], step)
        attend, cache = attention(step)
        both = in_turn(multiply, attend)
        rounds = [
            (typical(multiply, cache), typical(attend, weights), typical(both))
            for _ in range(ROUNDS)
        ]
        medians = map(statistics.median, zip(*rounds, strict=True))
        times = dict(zip(("product", "attention", "in_turn"), medians, strict=True))
        found.append({"library": library, "step": step.name} | times)
    return found


def load(folder: Path) -> dict[str, Any] | None:
    """Read what was measured, if it lies in the folder."""
    path = folder / FILE.name
    record: dict[str, Any] | None = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    )
    return record


def text(record: dict[str, Any]) -> str:
    """Make the table."""
    lines = [
        [
            row["library"],
            row["step"],
            *(duration(row[name]) for name in ("product", "attention", "in_turn")),
            digits(row["in_turn"] / (row["product"] + row["attention"])),
        ]
        for row in record["rows"]
    ]
    header = ["library", "step", "its product", "attention", "in turn", "× the sum"]
    about = f"{record['machine']['cpu']}, {record['threads']} threads; {record['threads_by']}."
    return "\n".join([*table(header, lines, left=2), "", about])


def main() -> None:
    """Measure beside each library that is installed, in a process of its own."""
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[2])))
        return
    removed = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    environment = {name: text for name, text in os.environ.items() if name not in removed}
    rows = []
    for library, module in LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            print(f"{library} is not installed")
            continue
        command = [sys.executable, __file__, "--measure", library]
        output = subprocess.run(  # noqa: S603
            command, check=True, capture_output=True, text=True, env=environment
        ).stdout
        rows += json.loads(output)
    config = cpuattn._core.config()  # noqa: SLF001
    record = {
        "machine": describe(),
        "threads": config["num_threads"],
        "threads_by": config["threads_by"],
        "rows": rows,
    }
    FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(text(record))


if __name__ == "__main__":
    main()
