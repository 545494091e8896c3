"""Multi-head attention as a layer: projections around `attention`, with loadable weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cpuattn import _layer_weights
from cpuattn._arrays import as_array, as_integers
from cpuattn._attention import attention
from cpuattn._checks import check_float_dtype, check_size
from cpuattn._projections import Projections
from cpuattn._rotary import rotary_embedding
from cpuattn.cache import KVCache

__all__ = ["MultiHeadAttention"]

Rope = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, bool]


class MultiHeadAttention(Projections):
    """Project to query, key and value heads, attend, and project the heads' outputs back.

    Letters: E embed_dim, Hq num_heads, Hkv kv_heads, D head_dim, L lengths.

    Parameters
    ----------
    embed_dim : int
        E, features of `x` and of the result.
    num_heads : int
        Hq, query heads.
    kv_heads : int, optional
        Hkv, key/value heads, a divisor of Hq; Hq by default. Fewer is grouped-query attention.
    head_dim : int, optional
        D, features of a head; E / Hq by default.
    key_dim, value_dim : int, optional
        Features of the inputs that keys and values are projected from; E by default.
    bias : bool, default True
        Whether the projections add a bias.
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
    >>> from cpuattn import MultiHeadAttention
    >>> layer = MultiHeadAttention(embed_dim=64, num_heads=8, kv_heads=2, rng=0)
    >>> x = np.ones((2, 10, 64), "float32")
    >>> layer(x, causal=True).shape  # self-attention
    (2, 10, 64)
    >>> layer(x, context=np.ones((2, 7, 64), "float32")).shape  # cross-attention
    (2, 10, 64)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        key_dim: int | None = None,
        value_dim: int | None = None,
        bias: bool = True,
        dtype: DTypeLike = "float32",
        rng: "int | np.random.Generator | None" = None,
    ) -> None:
        def size(name: str, given: int | None, default: int) -> int:
            return default if given is None else check_size(name, given, at_least=1)

        self.embed_dim = check_size("embed_dim", embed_dim, at_least=1)
        self.num_heads = check_size("num_heads", num_heads, at_least=1)
        self.kv_heads = size("kv_heads", kv_heads, self.num_heads)
        self.head_dim = size("head_dim", head_dim, self.embed_dim // self.num_heads)
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
        shapes = _layer_weights.shapes(
            (self.embed_dim, self.key_dim, self.value_dim),
            self.num_heads * self.head_dim,
            self.kv_heads * self.head_dim,
            bias=self.bias,
        )
        super().__init__(shapes, check_float_dtype("dtype", dtype), rng)

    def __call__(
        self,
        x: ArrayLike,
        context: ArrayLike | tuple[ArrayLike, ArrayLike] | KVCache | None = None,
        *,
        cache: KVCache | None = None,
        rope: Rope | None = None,
        **options: Any,
    ) -> NDArray[Any]:
        """Self-attention of x, or attention from x over a context.

        Parameters
        ----------
        x : (..., Lq, E) array
        context : (..., Lk, key_dim) array, pair of arrays, or KVCache, optional
            What keys and values are projected from; a pair holds the input of the keys and that of
            the values. A KVCache holds projected keys and values: of a context that was given with
            ``cache=`` before and needs no second projection. By default `x`.
        cache : KVCache, optional
            The new keys and values are appended to it first, and the queries attend to all that it
            holds. `x` is then (B, Lq, E).
        rope : (cos, sin) or (cos, sin, interleaved), optional
            Arguments of `rotary_embedding` for queries and keys; positions go on from those in the
            cache. Self-attention only.
        **options
            Of `attention`, such as ``causal=True``. `key_lengths` counts the valid tokens of each
            entry of `x` or `context`, the rest being padding on the right; with a cache only they
            are appended. Query 0 of self-attention has the position of key 0, also in entries
            with padding.

        Returns
        -------
        ndarray
            (..., Lq, E).

        Raises
        ------
        TypeError
            If an input does not have the dtype of the layer, or `out` or `return_lse` is given.
        ValueError
            If shapes do not fit, or arguments that exclude each other are given.
        """
        self._check_call(context, cache, rope, options)
        query = self._heads("q_proj", "x", x)
        held = context if isinstance(context, KVCache) else cache
        if held is not None:
            self._check_cache("context" if held is context else "cache", held, query.shape)
        if isinstance(context, KVCache):
            key, value = context.keys, context.values
        else:
            key, value = self._keys_and_values(x, context)
            if rope is not None:
                query, key = self._rotate(query, key, rope, cache, options.get("key_lengths"))
            if cache is not None:
                cache.append(key, value, lengths=options.pop("key_lengths", None))
            elif context is None and options.get("query_offset") is None:
                options["query_offset"] = 0

        out = self._empty_output(query, key, value)
        if held is not None:
            held.attend(query, out=self._split_heads(out), **options)
        else:
            attention(query, key, value, out=self._split_heads(out), **options)
        return self._project("out_proj", out)

    @staticmethod
    def _check_call(
        context: object, cache: KVCache | None, rope: Rope | None, options: Mapping[str, Any]
    ) -> None:
        """Raise TypeError or ValueError if arguments of a call exclude each other."""
        if refused := {"out", "return_lse"} & options.keys():
            raise TypeError(f"{', '.join(sorted(refused))}: not an option of MultiHeadAttention")
        if rope is not None and context is not None:
            raise ValueError("rope is for self-attention: it cannot be given with a context")
        if rope is not None and len(rope) not in (2, 3):
            raise ValueError(f"rope must be (cos, sin) or (cos, sin, interleaved), got {len(rope)}")
        if cache is not None and isinstance(context, KVCache):
            raise ValueError("cache cannot be given with a context that is a KVCache")

    def _check_cache(self, name: str, cache: KVCache, query_shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the cache has the heads of this layer and the batch of x."""
        if len(query_shape) != 4:
            raise ValueError(
                f"x must be (B, Lq, E) with a KVCache, got {len(query_shape) - 1} axes"
            )
        batch, heads, _, head_dim = cache.keys.shape
        value_dim = cache.values.shape[3]
        if (heads, head_dim, value_dim) != (self.kv_heads, self.head_dim, self.head_dim):
            raise ValueError(
                f"{name} must hold {self.kv_heads} heads of {self.head_dim} features like the "
                f"layer, got {heads} of {head_dim} for keys and {value_dim} for values"
            )
        if batch != query_shape[0]:
            raise ValueError(f"{name} must hold {query_shape[0]} entries like x, got {batch}")

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
        return self._split_heads(self._project(projection, array))

    def _empty_output(
        self, query: NDArray[Any], key: NDArray[Any], value: NDArray[Any]
    ) -> NDArray[Any]:
        """Return (..., Lq, Hq * D), whose heads attention is to write in place."""
        try:
            lead = np.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
        except ValueError:
            raise ValueError(
                f"context must broadcast with x before the last two axes, but its keys {key.shape} "
                f"and values {value.shape} do not with queries {query.shape}"
            ) from None
        return np.empty((*lead, query.shape[-2], self.num_heads * self.head_dim), self.dtype)

    def _split_heads(self, x: NDArray[Any]) -> NDArray[Any]:
        """View (..., L, H * D) as (..., H, L, D)."""
        heads = x.shape[-1] // self.head_dim
        return x.reshape(*x.shape[:-1], heads, self.head_dim).swapaxes(-2, -3)

    @staticmethod
    def _rotate(
        query: NDArray[Any],
        key: NDArray[Any],
        rope: Rope,
        cache: KVCache | None,
        lengths: ArrayLike | None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        cos, sin = rope[:2]
        interleaved = len(rope) == 3 and bool(rope[2])
        positions = None
        if cache is not None and np.ndim(cos) == 2:
            tokens = np.arange(query.shape[-2])
            if lengths is not None:
                # Padding repeats the last position, which the table surely has.
                counts = as_integers(lengths, "key_lengths").reshape(-1, 1)
                tokens = np.minimum(tokens, counts - 1)
            positions = np.maximum(cache.lengths[:, None] + tokens, 0)
        return (
            rotary_embedding(query, cos, sin, positions=positions, interleaved=interleaved),
            rotary_embedding(key, cos, sin, positions=positions, interleaved=interleaved),
        )
