"""What every module of calls for test_bits.py shares: calls, their inputs and their hash."""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import cpuattn
from cache_cases import dtype_of
from oracle import Array

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One call: what it is, and how it is made with so many threads."""

    label: str
    run: Callable[[int], Any]


# Makes the calls of a group, with inputs from this generator.
Group = Callable[[np.random.Generator], Iterator[Call]]


def calls_of(name: str, group: Group) -> list[Call]:
    """Make the calls of a group, always the same ones."""
    return list(group(np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))))


def digest(result: Any) -> str:
    """Hash arrays with their dtype and shape, and what holds arrays, to 16 hexadecimal digits."""
    sha = hashlib.sha256()
    _feed(sha.update, result)
    return sha.hexdigest()[:16]


def _feed(update: Callable[[bytes], None], result: Any) -> None:
    if isinstance(result, np.ndarray):
        update(f"{result.dtype.name}{result.shape}".encode())
        array = np.array(result, result.dtype.newbyteorder("="), order="C")
        if array.dtype.kind not in "iub":
            # One NaN: its sign and payload follow the order of operands that a compiler chose.
            array[np.isnan(array)] = np.nan
        update(array.tobytes())
    elif isinstance(result, list | tuple):
        update(f"{type(result).__name__}{len(result)}".encode())
        for element in result:
            _feed(update, element)
    elif isinstance(result, dict):
        _feed(update, list(result.items()))
    else:
        update(repr(result).encode())


def normal(rng: np.random.Generator, *shape: int, dtype: str = "float32") -> Array:
    """Draw normal numbers and round them to a dtype; int8 is uniform."""
    if dtype == "int8":
        return rng.integers(-127, 128, shape, np.int8)
    return rng.standard_normal(shape).astype(dtype_of(dtype))


@dataclass(frozen=True)
class Sizes:
    """The sizes of one attention: Lq, Lk, D, Dv (D by default), Hq, Hkv and B."""

    queries: int
    keys: int
    head_dim: int = 24
    value_dim: int | None = None
    heads: int = 4
    kv_heads: int = 2
    batch: int = 2

    @property
    def text(self) -> str:
        """Give a label."""
        value_dim = "" if self.value_dim is None else f"v{self.value_dim}"
        heads = f"{self.heads}h{self.kv_heads}"
        return f"{self.queries}x{self.keys}x{self.head_dim}{value_dim} {heads}b{self.batch}"


def arrays(rng: np.random.Generator, kind: str, s: Sizes) -> Arguments:
    """Draw query, key and value. `kind` is a dtype, or that of the query + that of the cache."""
    query_dtype, _, dtype = kind.partition("+")
    dtype = dtype or query_dtype
    value_dim = s.head_dim if s.value_dim is None else s.value_dim
    arguments: Arguments = {
        "query": normal(rng, s.batch, s.heads, s.queries, s.head_dim, dtype=query_dtype),
        "key": normal(rng, s.batch, s.kv_heads, s.keys, s.head_dim, dtype=dtype),
        "value": normal(rng, s.batch, s.kv_heads, s.keys, value_dim, dtype=dtype),
    }
    if dtype == "int8":
        for name in ("key_scale", "value_scale"):
            numbers = rng.random((s.batch, s.kv_heads, s.keys), np.float32)
            arguments[name] = numbers / 64 + np.float32(2**-10)
    return arguments


def attend(label: str, arguments: Arguments) -> Call:
    """Make the call of `cpuattn.attention` with these arguments."""
    given: Arguments = {"return_lse": True} | arguments
    return Call(label, lambda threads: cpuattn.attention(**given, num_threads=threads))
