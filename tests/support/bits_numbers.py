"""Calls of quantisation and rotary embedding, in NumPy alone, for test_bits.py."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import cpuattn
from bits_groups import Call, Group, normal
from cache_cases import FLOATS


def _call(label: str, function: Callable[..., Any], *given: Any, **options: Any) -> Call:
    return Call(label, lambda _: function(*given, **options))


def quantize(dtype: str, rng: np.random.Generator) -> Iterator[Call]:
    """Rows of all sizes and magnitudes, ties, and rows that have no scale."""
    for shape in ((5, 7), (2, 3, 9, 64), (4, 1), (0, 3), (3, 0), (6, 130)):
        x = normal(rng, *shape, dtype=dtype)
        yield _call(f"{shape}", cpuattn.quantize_int8, x)
        yield _call(f"{shape} axis 0", cpuattn.quantize_int8, x, axis=0)
        yield _call(f"{shape} strided", cpuattn.quantize_int8, x.mT, axis=-2)
    x = normal(rng, 12, 16, dtype=dtype)
    odd = (np.nan, np.inf, -np.inf, 0, 6e4, 1e-7, 1e-40, 1e-44, 3e38)
    with np.errstate(over="ignore"):
        for i, value in enumerate(odd):
            x[i, i] = x.dtype.type(value)
            if value in (0, 1e-7, 1e-40, 1e-44):
                x[i] = x[i, i]
    yield _call("odd rows", cpuattn.quantize_int8, x)
    ties = (np.arange(-254, 255) / 2).astype(x.dtype)
    ties[0], ties[-1] = -127, 127
    yield _call("ties", cpuattn.quantize_int8, ties)


def dequantize(dtype: str, rng: np.random.Generator) -> Iterator[Call]:
    """Every integer with scales of all magnitudes."""
    q = np.broadcast_to(np.arange(-128, 128).astype(np.int8), (40, 256))
    largest = 8 if dtype == "float16" else 120  # NumPy warns of what overflows
    scale = (2.0 ** rng.uniform(-149, largest, 40)).astype(np.float32)
    scale[:3] = np.nan, 0, -1
    yield _call("rows", cpuattn.dequantize_int8, q, scale, dtype=dtype)
    yield _call("axis 0", cpuattn.dequantize_int8, q.T, scale, axis=0, dtype=dtype)


def rotary(dtype: str, rng: np.random.Generator) -> Iterator[Call]:
    """Tables of both widths and orders, and positions of all forms."""
    angles = rng.uniform(-9, 9, (40, 4))
    for table_dtype, (shape, interleaved) in itertools.product(
        ("float32", "float64", dtype), itertools.product(((2, 3, 6, 8), (6, 11)), (False, True))
    ):
        x = normal(rng, *shape, dtype=dtype)
        narrow = normal(rng, 0, dtype=table_dtype).dtype
        cos, sin = (f(angles).astype(narrow) for f in (np.cos, np.sin))
        rows: list[Any] = [None, 0, 7, np.arange(6)[::-1], rng.integers(0, 40, 6)]
        if len(shape) > 2:
            rows.append(rng.integers(0, 40, (2, 6)))
        for i, positions in enumerate(rows):
            yield _call(
                f"{shape} {table_dtype} {interleaved} {i}",
                cpuattn.rotary_embedding,
                x,
                cos,
                sin,
                positions=positions,
                interleaved=interleaved,
            )
        double = np.concatenate((cos, cos), -1), np.concatenate((sin, sin), -1)
        if not interleaved:
            yield _call(f"{shape} 2R", cpuattn.rotary_embedding, x, *double, rotary_dim=8)
        direct = [np.broadcast_to(t[:6], (*shape[:-3], 6, 4)) for t in (cos, sin)]
        if len(shape) > 2:
            yield _call(f"{shape} direct", cpuattn.rotary_embedding, x, *direct)


def groups() -> dict[str, Group]:
    """Name the groups that no instruction set of the core takes part in."""
    return {
        f"{make.__name__} {dtype}": functools.partial(make, dtype)
        for make, dtype in itertools.product((quantize, dequantize, rotary), FLOATS)
    }
