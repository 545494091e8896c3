"""Multi-head attention as a layer: projections around `attention`, with loadable weights."""

from __future__ import (
    annotations,
)  # help() then shows ArrayLike, and not what it stands for

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cpuattn._arrays import as_array, as_integers
from cpuattn._attention import attention
from cpuattn._checks import check_float_dtype, check_number, check_size
from cpuattn.cache.appended import Appended
from cpuattn.cache.kv_cache import KVCache
from cpuattn.cache.paged import PagedKVCache
from cpuattn.layers import weights as layer_weights
from cpuattn.layers.caches import CACHES, LayerCache, check_cache, layer_cache
from cpuattn.layers.projections import Projections
from cpuattn.layers.rope import Rope, check_rope, rotate

__all__ = ["MultiHeadAttention"]


class MultiHeadAttention(Projections):
    """Project to query, key and value heads, attend, and project the heads' outputs back.

    Letters: E embed_dim, Hq num_heads, Hkv kv_heads, D head_dim, Dv
    value_head_dim, L lengths.

    Parameters
    ----------
    embed_dim : int
        E, features of `x` and of the result.
    num_heads : int
        Hq, query heads.
    kv_heads : int, optional
        Hkv, key/value heads, a divisor of Hq; Hq by default. Fewer is grouped-query attention.
    head_dim : int, optional
        D, features of a head of query and key; E / Hq by default.
    value_head_dim : int, optional
        Dv, features of a head of value; D by default.
    key_dim, value_dim : int, optional
        Features of the inputs that keys and values are projected from; E by default.
    bias : bool, default True
        Whether the projections add a bias.
    norm_eps : float, default 1e-6
        Added to the mean square of a head, where `load_state_dict` is given a q_norm and k_norm:
        rms_norm_eps of Hugging Face's configurations.
    dtype : {"float32", "float64"}
        Of weights, inputs and result.
    rng : int or numpy.random.Generator, optional
        Source of the initial weights, which are distributed as torch's: Xavier uniform for query,
        key and value, uniform up to 1/√fan_in for the output, biases zero.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer or too small, or the heads do not divide.

    Notes
    -----
    Heads are views: the kernel reads query, key and value where the projections wrote them, and
    writes its result where the output projection reads it.

    Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from cpuattn import MultiHeadAttention, PagedKVCache
    >>> layer = MultiHeadAttention(embed_dim=64, num_heads=8, kv_heads=2, rng=0)
    >>> x = np.ones((2, 10, 64), "float32")
    >>> layer(x, causal=True).shape  # self-attention
    (2, 10, 64)
    >>> layer(x, context=np.ones((2, 7, 64), "float32")).shape  # cross-attention
    (2, 10, 64)
    >>> cache = PagedKVCache(num_pages=8, page_size=4, kv_heads=2, head_dim=8)
    >>> layer(x, cache=cache, seq_ids=[cache.add(), cache.add()], causal=True).shape
    (2, 10, 64)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        value_head_dim: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        bias: bool = True,
        norm_eps: float = 1e-6,
        dtype: DTypeLike = "float32",
        rng: int | np.random.Generator | None = None,
    ) -> None:
        def size(name: str, given: int | None, default: int) -> int:
            return default if given is None else check_size(name, given, at_least=1)

        self.embed_dim = check_size("embed_dim", embed_dim, at_least=1)
        self.num_heads = check_size("num_heads", num_heads, at_least=1)
        self.kv_heads = size("kv_heads", kv_heads, self.num_heads)
        self.head_dim = size("head_dim", head_dim, self.embed_dim // self.num_heads)
        self.value_head_dim = size("value_head_dim", value_head_dim, self.head_dim)
        self.key_dim = size("key_dim", key_dim, self.embed_dim)
        self.value_dim = size("value_dim", value_dim, self.embed_dim)
        if self.num_heads % self.kv_heads:
            raise ValueError(f"kv_heads must divide num_heads = {num_heads}, got {kv_heads}")
        if head_dim is None and self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim = {embed_dim} or head_dim be given, "
                f"got {num_heads}"
            )
        self.bias = bool(bias)
        shapes = layer_weights.shapes(
            (self.embed_dim, self.key_dim, self.value_dim),
            (self.num_heads, self.kv_heads),
            (self.head_dim, self.value_head_dim),
            bias=self.bias,
        )
        norm_eps = check_number("norm_eps", norm_eps)
        super().__init__(shapes, self.kv_heads, norm_eps, check_float_dtype("dtype", dtype), rng)

    def __repr__(self) -> str:
        names = ["embed_dim", "num_heads", "kv_heads", "head_dim"]
        names += [n for n in ("key_dim", "value_dim") if getattr(self, n) != self.embed_dim]
        sizes = ", ".join(f"{name}={getattr(self, name)}" for name in (*names, "bias", "dtype"))
        return f"{type(self).__name__}({sizes})"

    def __call__(
        self,
        x: ArrayLike,
        context: ArrayLike | tuple[ArrayLike, ArrayLike] | KVCache | PagedKVCache | None = None,
        *,
        cache: KVCache | PagedKVCache | None = None,
        seq_ids: ArrayLike | None = None,
        rope: Rope | None = None,
        **options: Any,
    ) -> NDArray[Any]:
        """Self-attention of x, or attention from x over a context.

        Parameters
        ----------
        x : (..., Lq, E) array
            Of the dtype of the layer.
        context : (..., Lk, key_dim) array, pair of arrays, KVCache or PagedKVCache, optional
            What keys and values are projected from; a pair holds the inputs of the keys and of
            the values. A cache holds projected keys and values: of a context that was given with
            ``cache=`` before and needs no second projection. By default `x`.
        cache : KVCache or PagedKVCache, optional
            The new keys and values are appended to it first, and the queries attend to all that it
            holds; a call that raises leaves its tokens as they were. `x` is then (B, Lq, E).
        seq_ids : (B,) int, optional
            With a PagedKVCache, and only then: the sequence of each entry of `x`. Results have the
            bits that a KVCache of these sequences gives.
        rope : (cos, sin), (cos, sin, interleaved) or (cos, sin, interleaved, rotary_dim), optional
            Arguments of `rotary_embedding` for queries and keys; positions go on from those in the
            cache. Self-attention only.
        **options
            Of `attention`, such as ``causal=True``; `sinks` default to the weights of that name, if
            there are any. `key_lengths` counts the valid tokens of each entry of `x` or `context`,
            the rest being padding on the right; with a cache only they are appended. Query 0 of
            self-attention has the position of key 0, also in entries with padding.

        Returns
        -------
        ndarray
            (..., Lq, E).

        Raises
        ------
        TypeError
            If an input does not have the dtype of the layer, a cache is of float64 and the layer is
            not or the other way round, or `out` or `return_lse` is given.
        ValueError
            If shapes do not fit, arguments that exclude each other are given, or `seq_ids` are
            missing or unknown.
        """
        self._check_call(context, cache, seq_ids, rope, options)
        if "sinks" in self._weights:
            options.setdefault("sinks", self._weights["sinks"])
        query = self._heads("q_proj", "x", x)
        if isinstance(context, CACHES):
            return self._attend(
                self._held("context", context, seq_ids, query.shape), query, options
            )
        held = None if cache is None else self._held("cache", cache, seq_ids, query.shape)
        key, value = self._keys_and_values(x, context)
        if rope is not None:
            query, key = rotate(query, key, rope, held, options.get("key_lengths"))
        if held is not None:
            counts = options.pop("key_lengths", None)
            counts = None if counts is None else as_integers(counts, "key_lengths")
            appended = held.append(key, value, counts)
            # An option that does not fit, or Ctrl-C, takes the tokens back.
            return appended.attempt(lambda: self._attend(appended, query, options))
        if context is None and options.get("query_offset") is None:
            options["query_offset"] = 0
        out, heads = self._empty_output(_leading(query, key, value), query.shape[-2])
        attention(query, key, value, out=heads, **options)
        return self._project("out_proj", out)

    def _attend(
        self, held: LayerCache | Appended, query: NDArray[Any], options: Mapping[str, Any]
    ) -> NDArray[Any]:
        """Attend to a cache, and project."""
        out, heads = self._empty_output(query.shape[:-3], query.shape[-2])
        held.attend(query, out=heads, **options)
        return self._project("out_proj", out)

    @staticmethod
    def _check_call(
        context: object,
        cache: object,
        seq_ids: ArrayLike | None,
        rope: Rope | None,
        options: Mapping[str, Any],
    ) -> None:
        """Raise TypeError or ValueError if arguments of a call exclude each other."""
        if refused := {"out", "return_lse"} & options.keys():
            raise TypeError(f"{', '.join(sorted(refused))}: not an option of MultiHeadAttention")
        if rope is not None and context is not None:
            raise ValueError("rope is for self-attention: it cannot be given with a context")
        if rope is not None:
            check_rope(rope)
        if cache is not None and isinstance(context, CACHES):
            raise ValueError("cache cannot be given with a context that is a cache")
        if seq_ids is not None and cache is None and not isinstance(context, CACHES):
            raise ValueError("seq_ids is for a PagedKVCache, but there is no cache")

    def _held(
        self, name: str, cache: object, seq_ids: ArrayLike | None, query_shape: tuple[int, ...]
    ) -> LayerCache:
        """Return the cache as one of B entries, or raise TypeError or ValueError."""
        held = layer_cache(name, cache, seq_ids)
        if len(query_shape) != 4:
            raise ValueError(f"x must be (B, Lq, E) with a cache, got {len(query_shape) - 1} axes")
        dims = self.kv_heads, self.head_dim, self.value_head_dim
        check_cache(name, held, dims, self.dtype, query_shape[0])
        return held

    def _keys_and_values(
        self, x: ArrayLike, context: ArrayLike | tuple[ArrayLike, ArrayLike] | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if context is None:
            return self._heads("k_proj", "x", x), self._heads("v_proj", "x", x)
        key_input, value_input = context if isinstance(context, tuple) else (context, context)
        key = self._heads("k_proj", "context", key_input)
        return key, self._heads("v_proj", "context", value_input)

    def _heads(self, projection: str, argument: str, x: ArrayLike) -> NDArray[Any]:
        """Project to heads, (..., L, features) -> (..., H, L, D)."""
        array = as_array(x, argument)
        if array.dtype != self.dtype:
            raise TypeError(f"{argument} must be {self.dtype} like the layer, got {array.dtype}")
        features = self._in_features(projection)
        if array.ndim < 2 or array.shape[-1] != features:
            raise ValueError(
                f"{argument} must be (..., L, {features}) for {projection}, got {array.shape}"
            )
        heads = self.num_heads if projection == "q_proj" else self.kv_heads
        return _split_heads(self._project(projection, array), heads)

    def _empty_output(
        self, leading: tuple[int, ...], length: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return (..., Lq, Hq * Dv), and its heads, which attention is to write in place."""
        out = np.empty((*leading, length, self.num_heads * self.value_head_dim), self.dtype)
        return out, _split_heads(out, self.num_heads)


def _split_heads(x: NDArray[Any], heads: int) -> NDArray[Any]:
    """View (..., L, H * D) as (..., H, L, D)."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).swapaxes(-2, -3)


def _leading(query: NDArray[Any], key: NDArray[Any], value: NDArray[Any]) -> tuple[int, ...]:
    """Return the axes before the heads, broadcast, or raise ValueError."""
    try:
        return np.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    except ValueError:
        raise ValueError(
            f"context must broadcast with x before the last two axes, but its keys {key.shape} "
            f"and values {value.shape} do not with queries {query.shape}"
        ) from None
