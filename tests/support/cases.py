"""Inputs for the tests: a shape and the names of options make one case with its two oracles."""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

import cpuattn
from oracle import Array, Dtype, Result, assert_accurate, attend

WIDER: dict[Dtype, Dtype] = {np.float32: np.float64, np.float64: np.longdouble}


@dataclass(frozen=True)
class Shape:
    """The sizes of one attention, named as in the documentation of `cpuattn.attention`."""

    queries: int
    keys: int
    head_dim: int = 8
    value_dim: int | None = None
    heads: int = 2
    kv_heads: int = 2
    batch: int = 2

    def arrays(self, rng: np.random.Generator, dtype: Dtype) -> tuple[Array, Array, Array]:
        """Normal query (B, Hq, Lq, D), key (B, Hkv, Lk, D) and value (B, Hkv, Lk, Dv)."""
        value_dim = self.head_dim if self.value_dim is None else self.value_dim
        sizes = (
            (self.batch, self.heads, self.queries, self.head_dim),
            (self.batch, self.kv_heads, self.keys, self.head_dim),
            (self.batch, self.kv_heads, self.keys, value_dim),
        )
        query, key, value = (rng.standard_normal(size).astype(dtype) for size in sizes)
        return query, key, value


def _mask(s: Shape, rng: np.random.Generator) -> Array:
    return rng.random((s.batch, s.heads, s.queries, s.keys)) < 0.7


def _bias(s: Shape, rng: np.random.Generator) -> Array:
    bias = rng.standard_normal((s.heads, s.queries, s.keys)).astype(np.float32)
    bias[rng.random(bias.shape) < 0.1] = -np.inf
    return bias


def _lengths(s: Shape) -> list[int]:
    return [s.keys * (2, 0, 3)[b % 3] // 3 for b in range(s.batch)]


def _segments(s: Shape, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "query_segments": np.sort(rng.integers(0, 4, (s.batch, s.queries)), axis=-1),
        "key_segments": np.sort(rng.integers(0, 4, (s.batch, s.keys)), axis=-1),
    }


# Each makes the keyword arguments of one option. Offsets and lengths differ within the batch, and
# reach the ends: a batch entry without keys, queries that stand before the first key.
OPTIONS: MappingProxyType[str, Callable[[Shape, np.random.Generator], dict[str, Any]]]
OPTIONS = MappingProxyType(
    {
        "mask": lambda s, rng: {"mask": _mask(s, rng)},
        "bias": lambda s, rng: {"bias": _bias(s, rng)},
        "causal": lambda _s, _rng: {"causal": True},
        "window": lambda s, _rng: {"window": (s.keys // 3, 2)},
        "offset": lambda s, _rng: {"query_offset": (np.arange(s.batch) * 5 - 2).tolist()},
        "lengths": lambda s, _rng: {"key_lengths": _lengths(s)},
        "segments": _segments,
        "alibi": lambda s, _rng: {"alibi_slopes": 0.5 ** np.arange(1, s.heads + 1)},
        "sinks": lambda s, _rng: {"sinks": np.linspace(-1, 2, s.heads)},
        "softcap": lambda _s, _rng: {"softcap": 1.5},
        "scale": lambda _s, _rng: {"scale": 0.61},
    }
)


@dataclass(frozen=True)
class Case:
    """Arguments of `cpuattn.attention`, its exact result, and that of NumPy in the same dtype."""

    arrays: tuple[Array, Array, Array]  # read-only: the oracle is computed later
    options: dict[str, Any]

    # Computed when a test asks: the oracle costs far more than the call that it judges.
    @functools.cached_property
    def exact(self) -> Result:
        """The result in a wider dtype."""
        return attend(*self.arrays, dtype=WIDER[self.arrays[0].dtype.type], **self.options)

    @functools.cached_property
    def plain(self) -> Result:
        """The result in the dtype of the arrays."""
        return attend(*self.arrays, dtype=self.arrays[0].dtype.type, **self.options)

    def check(self, **arguments: Any) -> None:
        """Call the library on this case (with more `arguments`) and compare output and lse."""
        arguments = self.options | arguments
        out, lse = cpuattn.attention(*self.arrays, **arguments, return_lse=True)
        assert_accurate(out, self.exact.out, self.plain.out)
        assert_accurate(lse, self.exact.lse, self.plain.lse)


def case_of(arrays: tuple[Array, Array, Array], **options: Any) -> Case:
    """Make the case of these arguments, which nobody may change afterwards."""
    for array in arrays:
        array.setflags(write=False)
    return Case(arrays, options)


def make_case(shape: Shape, dtype: Dtype = np.float32, options: tuple[str, ...] = ()) -> Case:
    """Make the case of `shape` with the named `options`; the same arguments, the same case."""
    return _cached_case(shape, np.dtype(dtype), options)


@functools.lru_cache(maxsize=16)
def _cached_case(shape: Shape, dtype: np.dtype[Any], options: tuple[str, ...]) -> Case:
    rng = np.random.default_rng(zlib.crc32(repr((shape, options)).encode()))
    arrays = shape.arrays(rng, dtype.type)
    keywords: dict[str, Any] = {}
    for name in options:
        keywords |= OPTIONS[name](shape, rng)
    return case_of(arrays, **keywords)


def paged(x: Array, page_size: int, rng: np.random.Generator, fill: Any) -> tuple[Array, Array]:
    """Scatter x (B, Hkv, Lk, ...) over pages in random order; what no token fills is `fill`."""
    batch, heads, keys = x.shape[:3]
    count = -(-keys // page_size)
    padding = [(0, 0)] * x.ndim
    padding[2] = (0, count * page_size - keys)
    padded = np.pad(x.astype(np.float64), padding, constant_values=fill).astype(x.dtype)
    table = rng.permutation(batch * count + 3)[: batch * count].reshape(batch, count)
    pages = np.full((batch * count + 3, heads, page_size, *x.shape[3:]), fill, x.dtype)
    split = padded.reshape(batch, heads, count, page_size, *x.shape[3:])
    pages[table.ravel()] = split.swapaxes(1, 2).reshape(-1, *pages.shape[1:])
    return pages, table
