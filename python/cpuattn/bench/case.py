"""One attention call: its shape, its options and its inputs."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpuattn._arrays import empty_aligned
from cpuattn.bench import masks
from cpuattn.bench.dtypes import dequantise, numpy_dtype, quantise
from cpuattn.bench.memory import untouched

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One attention call; its shape has the letters of `cpuattn.attention`."""

    name: str
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int | None = None  # where it differs from head_dim
    # With "int8" of key and value alone, which then are multiples of a scale for each token.
    dtype: str = "float32"
    causal: bool = False
    window: tuple[int, int] | None = None
    key_lengths: tuple[int, ...] | None = None
    padding_mask: bool = False  # the key_lengths are given as a bool mask, (B, 1, 1, Lk)
    bias: bool = False  # of normal numbers, (1, 1, Lq, Lk)
    documents: tuple[int, ...] | None = None  # lengths; tokens see their own document
    alibi: bool = False
    softcap: float | None = None
    sinks: bool = False
    # Arrays are transposed views of (B, L, H, D), as projections leave them.
    head_views: bool = False
    # Different keys and values that the calls go through in turn. With several, more bytes than
    # the caches hold, they come from memory: as in a model, where other layers lie in between.
    sets: int = 1
    page_size: int | None = None  # keys and values lie in pages of this size, in any order
    # The sequences, of key_lengths, lie behind each other; engines without that pad them, queries
    # too, and their rows of padding are not looked at.
    packed: bool = False

    @property
    def value_size(self) -> int:
        """Give Dv."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def query_dtype(self) -> np.dtype[Any]:
        """Give the dtype of the query and the result."""
        return numpy_dtype("float32" if self.dtype == "int8" else self.dtype)

    def title(self) -> str:
        """Say the shape and the options in words."""
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        length = f"{self.queries}"
        if self.queries != self.keys:
            length += f" over {self.keys}"
        size = f"{self.head_dim}"
        if self.value_size != self.head_dim:
            size += f"/{self.value_size}"
        words = [f"{self.batch} × {heads} × {length} × {size}"]
        if self.dtype != "float32":
            words.append(self.dtype)
        if self.window is not None:
            words.append(f"window {sum(self.window) + 1}")
        if self.key_lengths is not None:
            words.append(f"{min(self.key_lengths)} to {max(self.key_lengths)} keys")
        if self.documents is not None:
            words.append(f"{len(self.documents)} documents")
        if self.page_size is not None:
            words.append(f"pages of {self.page_size}")
        if self.softcap is not None:
            words.append(f"softcap {self.softcap:g}")
        flags = {
            "causal": self.causal,
            "bool mask": self.padding_mask,
            "float mask": self.bias,
            "ALiBi": self.alibi,
            "sinks": self.sinks,
            "head views": self.head_views,
            "packed": self.packed,
        }
        return ", ".join(words + [word for word, flag in flags.items() if flag])

    def inputs(self) -> list[tuple[Array, Array, Array]]:
        """Make query, key and value, `sets` times, the same ones in every process.

        For int8: the float32 elements that the integers and their scales stand for.
        """
        rng = np.random.default_rng(0)
        query = self._normal(rng, self.heads, self.queries, self.head_dim)
        sets = []
        for _ in range(self.sets):
            key = self._normal(rng, self.kv_heads, self.keys, self.head_dim)
            value = self._normal(rng, self.kv_heads, self.keys, self.value_size)
            if self.dtype == "int8":
                key, value = (dequantise(*quantise(x)) for x in (key, value))
            sets.append((query, key, value))
        return sets

    def _normal(self, rng: np.random.Generator, heads: int, length: int, size: int) -> Array:
        if self.head_views:
            return self._normals(rng, (self.batch, length, heads, size)).swapaxes(1, 2)
        return self._normals(rng, (self.batch, heads, length, size))

    def _normals(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        array = empty_aligned(shape, self.query_dtype)  # as frameworks allocate theirs
        array[...] = rng.standard_normal(shape, np.float32)
        return array

    def output(self) -> Array:
        """Make room for the result, (B, Hq, Lq, Dv) in the layout of the inputs."""
        if self.head_views:
            shape = self.batch, self.queries, self.heads, self.value_size
            return untouched(shape, self.query_dtype).swapaxes(1, 2)
        return untouched((self.batch, self.heads, self.queries, self.value_size), self.query_dtype)

    def options(self) -> dict[str, Any]:
        """Give the options as `cpuattn.attention` takes them."""
        named = {
            "causal": self.causal or None,
            "window": self.window,
            "key_lengths": None if self.padding_mask else self.key_lengths,
            "mask": masks.padding(self) if self.padding_mask else None,
            "bias": masks.float_mask(self) if self.bias else None,
            "alibi_slopes": masks.alibi_slopes(self) if self.alibi else None,
            "softcap": self.softcap,
            "sinks": masks.sinks(self) if self.sinks else None,
        }
        if self.documents is not None:
            segments = np.broadcast_to(masks.segments(self), (self.batch, self.keys))
            named |= {"query_segments": segments, "key_segments": segments}
        return {name: option for name, option in named.items() if option is not None}

    def asks(self) -> set[str]:
        """Name the fields that ask for more than ``softmax(query @ key.T) @ value``."""
        options = ("causal", "window", "key_lengths", "bias", "documents", "alibi", "softcap")
        return {name for name in (*options, "sinks", "page_size") if getattr(self, name)}
