"""``python -m cpuattn selftest``: check this installation against a float64 reference.

It needs NumPy only and takes a second or two. Every instruction set that this CPU can run is
tried, not only the one that calls use.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cpuattn
from cpuattn import _core
from cpuattn._programs import python_child

Array = NDArray[Any]

# Rounding stays below this many units of the dtype's epsilon, relative to the largest output; a
# wrong mask, stride or exp is off by thousands.
ALLOWED_EPSILONS = 32


@dataclass(frozen=True)
class Case:
    """One call: sizes and options."""

    name: str
    query: tuple[int, ...]  # (B, Hq, Lq, D)
    key: tuple[int, ...]  # (B, Hkv, Lk, D)
    options: dict[str, Any] = field(default_factory=dict)


def cases() -> list[Case]:
    """Return a handful of calls that reach every kernel and every kind of mask."""
    generator = np.random.default_rng(20)
    square = (2, 4, 70, 32)
    mask = generator.random((2, 1, 70, 70)) < 0.5
    mask[0, :, 3] = False  # a query that may see nothing
    bias = generator.standard_normal((4, 70, 70)).astype(np.float32)
    return [
        Case("plain", square, square),
        Case("causal", (1, 2, 200, 64), (1, 2, 200, 64), {"causal": True}),
        Case("causal, Lq < Lk", (1, 2, 33, 64), (1, 2, 200, 64), {"causal": True}),
        Case("window (5, 0)", square, square, {"window": (5, 0)}),
        Case("bool mask", square, square, {"mask": mask}),
        Case("bias", square, square, {"bias": bias}),
        Case("key_lengths", square, square, {"key_lengths": [70, 9]}),
        Case("softcap, sinks", square, square, {"softcap": 2.0, "sinks": [0.5, -1, 0, 1]}),
        Case("ALiBi, causal", square, square, {"alibi_slopes": [1, 0.5, 0.2, 0.1], "causal": True}),
        Case("grouped heads 6:2", (2, 6, 40, 64), (2, 2, 40, 64)),
        Case("decode 8:2", (2, 8, 1, 128), (2, 2, 1000, 128)),
        Case("decode, window", (1, 4, 1, 64), (1, 4, 500, 64), {"window": (99, 0)}),
        Case("head_dim 1", (1, 2, 19, 1), (1, 2, 19, 1)),
        Case("head_dim 15", (1, 2, 83, 15), (1, 2, 83, 15)),
        Case("head_dim 80", (1, 2, 65, 80), (1, 2, 130, 80)),
        Case("no keys", (1, 2, 5, 16), (1, 2, 0, 16)),
    ]


def reference(query: Array, key: Array, value: Array, options: dict[str, Any]) -> Array:
    """Compute attention in float64 with the textbook's three steps and all scores at once."""
    query, key, value = (array.astype(np.float64) for array in (query, key, value))
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat(group, axis=1), value.repeat(group, axis=1)
    num_keys = key.shape[2]
    lengths = np.reshape(options.get("key_lengths", [num_keys] * len(query)), (-1, 1, 1, 1))
    j = np.arange(num_keys)
    i = np.arange(query.shape[2])[:, None] + lengths - query.shape[2]  # position of each query
    visible = j < lengths
    if options.get("causal"):
        visible = visible & (j <= i)
    if "window" in options:
        left, right = options["window"]
        visible = visible & (j >= i - left) & (j <= i + right)
    scores = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[3])
    if "softcap" in options:
        scores = options["softcap"] * np.tanh(scores / options["softcap"])
    if "alibi_slopes" in options:
        scores = scores - np.reshape(options["alibi_slopes"], (-1, 1, 1)) * np.abs(i - j)
    scores = scores + options.get("bias", 0.0)
    scores = np.where(visible & options.get("mask", True), scores, -np.inf)
    lowest = np.finfo(np.float64).min
    largest = scores.max(axis=3, keepdims=True, initial=lowest)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=3, keepdims=True)
    if "sinks" in options:
        total = total + np.exp(np.reshape(options["sinks"], (-1, 1, 1)) - largest)
    output: Array = weights @ value / np.where(total == 0, 1, total)
    return output


def error(case: Case, dtype: type[np.floating[Any]]) -> float:
    """Return the largest error of one call, in epsilons of `dtype`, relative to the output.

    It is infinite if padding or the number of threads has any influence.
    """
    generator = np.random.default_rng(8)
    query, key, value = (
        generator.standard_normal(shape).astype(dtype) for shape in (case.query, case.key, case.key)
    )
    expected = reference(query, key, value, case.options)
    for entry, length in enumerate(case.options.get("key_lengths", ())):
        key[entry, :, length:] = value[entry, :, length:] = np.nan
    found = cpuattn.attention(query, key, value, **case.options)
    alone = cpuattn.attention(query, key, value, num_threads=1, **case.options)
    if found.shape != expected.shape or found.dtype != dtype or not np.array_equal(found, alone):
        return np.inf
    difference = np.abs(found - expected).max(initial=0.0)
    largest = np.abs(expected).max(initial=0.0)
    return float(difference / (largest or 1.0) / np.finfo(dtype).eps)


def main(argv: Sequence[str]) -> int:
    """Run the checks and print a table.

    Parameters
    ----------
    argv : sequence of str
        Empty.

    Returns
    -------
    int
        0 if every error is small, else 1.
    """
    argparse.ArgumentParser(
        prog="python -m cpuattn selftest",
        description="Check every instruction set of this CPU against a float64 NumPy reference.",
    ).parse_args(argv)
    start = time.perf_counter()
    print(f"cpuattn {cpuattn.__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}")
    print("import: " + _import_times())
    columns = [(isa, dtype) for isa in cpuattn.isas() for dtype in (np.float32, np.float64)]
    print(f"\nlargest error, in units of the dtype's epsilon (allowed {ALLOWED_EPSILONS}):")
    print(f"{'':<20}" + "".join(f"{isa:>16}" for isa in cpuattn.isas()))
    print(f"{'':<20}" + "".join(f"{'f' + str(dtype().itemsize * 8):>8}" for _, dtype in columns))
    errors = []
    for case, row in _results():
        errors += row
        print(f"{case.name:<20}" + "".join(f"{value:8.2g}" for value in row))
    failures = sum(value > ALLOWED_EPSILONS for value in errors)
    verdict = f"FAILED: {failures} of {len(errors)}" if failures else f"all {len(errors)} correct"
    print(f"\n{verdict} ({time.perf_counter() - start:.1f} s)")
    return 1 if failures else 0


def _results() -> Iterator[tuple[Case, list[float]]]:
    """Yield each case with its errors: every instruction set in float32 and float64."""
    switch = _core._use_isa  # noqa: SLF001 (private to the package, which this is)
    before = _core.config()["isa"]
    try:
        for case in cases():
            errors = []
            for isa in cpuattn.isas():
                switch(isa)
                errors += [error(case, dtype) for dtype in (np.float32, np.float64)]
            yield case, errors
    finally:
        switch(before)


def _import_times() -> str:
    """Time the import in a fresh interpreter, apart from NumPy's."""
    program = (
        "import time; a = time.perf_counter(); import numpy; b = time.perf_counter()\n"
        "import cpuattn; c = time.perf_counter(); print((b - a) * 1e3, (c - b) * 1e3)"
    )
    output = subprocess.run(  # noqa: S603 (every word is ours)
        python_child(program), check=True, capture_output=True, text=True
    ).stdout
    numpy_ms, own_ms = map(float, output.split())
    return f"NumPy {numpy_ms:.0f} ms, cpuattn {own_ms:.0f} ms more"
