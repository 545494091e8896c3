"""Every argument of MultiHeadAttention that is refused."""

from typing import Any

import numpy as np
import pytest

from cpuattn import KVCache, MultiHeadAttention, PagedKVCache

E = 24


def load(**changed: Any) -> Any:
    state = {**MultiHeadAttention(E, 6).state_dict(), **changed}
    present = {name: array for name, array in state.items() if array is not None}
    return lambda: MultiHeadAttention(E, 6).load_state_dict(present)


def call(*arguments: Any, **options: Any) -> Any:
    return lambda: MultiHeadAttention(E, 6)(*arguments, **options)


def paged(kv_heads: int = 6, head_dim: int = 4, **options: Any) -> PagedKVCache:
    """Give a cache of three empty sequences."""
    cache = PagedKVCache(4, 2, kv_heads, head_dim, **options)
    for _ in range(3):
        cache.add()
    return cache


def names(choice: Any) -> Any:
    return MultiHeadAttention(E, 6).state_dict(names=choice)


X = np.ones((2, 4, E), np.float32)
CONTEXT = np.ones((3, 5, E), np.float32)
ROPE = np.ones((4, 2)), np.zeros((4, 2))
BAD: list[tuple[type[Exception], str, Any]] = [
    (ValueError, "num_heads must divide embed_dim = 24", lambda: MultiHeadAttention(24, 5)),
    (
        ValueError,
        "kv_heads must divide num_heads = 6, got 4",
        lambda: MultiHeadAttention(24, 6, kv_heads=4),
    ),
    (ValueError, "head_dim must be at least 1", lambda: MultiHeadAttention(24, 6, head_dim=0)),
    (TypeError, "embed_dim must be an integer, got '24'", lambda: MultiHeadAttention("24", 6)),  # type: ignore[arg-type]
    (TypeError, "dtype must be float32 or float64", lambda: MultiHeadAttention(24, 6, dtype=int)),
    (TypeError, "x is of type list", call(X.tolist())),
    (TypeError, "x must be float32 like the layer, got float64", call(X.astype(np.float64))),
    (ValueError, r"x must be \(..., L, 24\) for q_proj, got \(24,\)", call(X[0, 0])),
    (ValueError, r"context must be \(..., L, 24\) for k_proj", call(X, X[..., :5])),
    (TypeError, "out, return_lse: not an option", call(X, out=X, return_lse=True)),
    (ValueError, "rope is for self-attention", call(X, X, rope=ROPE)),
    (ValueError, r"rope must be \(cos, sin\)", call(X, rope=ROPE[:1])),
    (ValueError, "cache cannot be given with", call(X, KVCache(2, 6, 4), cache=KVCache(2, 6, 4))),
    (ValueError, r"x must be \(B, Lq, E\) with a cache", call(X[0], cache=KVCache(2, 6, 4))),
    (ValueError, "cache must hold 6 heads of 4 features", call(X, cache=KVCache(2, 3, 4))),
    (ValueError, "context must hold 2 entries like x, got 3", call(X, KVCache(3, 6, 4))),
    (ValueError, "seq_ids is missing; cache is a Paged", call(X, cache=paged())),
    (ValueError, "seq_ids is missing; context is a Paged", call(X, paged())),
    (
        ValueError,
        "seq_ids is for a PagedKVCache, but cache is a KVCache",
        call(X, cache=KVCache(2, 6, 4), seq_ids=[0, 1]),
    ),
    (ValueError, "seq_ids is for .* there is no cache", call(X, seq_ids=[0, 1])),
    (ValueError, "seq_ids .* but there is no cache", call(X, CONTEXT, seq_ids=[0, 1])),
    (ValueError, "seq_ids: there is no sequence 3", call(X, cache=paged(), seq_ids=[0, 3])),
    (
        ValueError,
        "seq_ids: there is no sequence 7",
        call(X, cache=paged(), seq_ids=[7, 0], rope=ROPE),
    ),
    (
        ValueError,
        r"seq_ids must name each sequence once, got \[1 1\]",
        call(X, cache=paged(), seq_ids=[1, 1]),
    ),
    (TypeError, "seq_ids has dtype float64", call(X, cache=paged(), seq_ids=[0.0, 1.0])),
    (
        ValueError,
        "cache must hold 2 sequences like x, got 3",
        call(X, cache=paged(), seq_ids=[0, 1, 2]),
    ),
    (ValueError, r"x must be \(B, Lq, E\)", call(X[0], cache=paged(), seq_ids=[0])),
    (
        ValueError,
        "context must hold 6 heads of 4 features like the layer, got 3 of 4",
        call(X, paged(3), seq_ids=[0, 1]),
    ),
    (
        TypeError,
        "cache must hold float32, .* int8 with a layer of float32, got float64",
        call(X, cache=paged(dtype="float64"), seq_ids=[0, 1]),
    ),
    (
        TypeError,
        "cache must hold float32, .* with a layer of float32, got float64",
        call(X, cache=KVCache(2, 6, 4, dtype="float64")),
    ),
    (
        TypeError,
        "cache must hold float64 with a layer of float64, got float32",
        lambda: MultiHeadAttention(E, 6, dtype="float64")(
            X.astype(np.float64), cache=KVCache(2, 6, 4)
        ),
    ),
    (TypeError, "cache must be a KVCache or a PagedKVCache, got dict", call(X, cache={})),
    (
        ValueError,
        "cache cannot be given with a context that is a cache",
        call(X, paged(), cache=paged(), seq_ids=[0, 1]),
    ),
    (ValueError, r"context must broadcast with x .* \(3, 6, 5, 4\)", call(X, CONTEXT)),
    (ValueError, r"missing names \['out_proj.weight'\]", load(**{"out_proj.weight": None})),
    (
        ValueError,
        "missing names .*q_proj.bias.*out_proj.bias",
        load(**{"in_proj_bias": None, "out_proj.bias": None}),
    ),
    (ValueError, r"unexpected names \['bias_k'\]", load(bias_k=np.ones(E))),
    (ValueError, "in_proj_weight must have 72 rows", load(in_proj_weight=np.ones((71, E)))),
    (
        ValueError,
        r"in_proj_weight must have shape \(24, 24\)",
        load(in_proj_weight=np.ones((72, 5))),
    ),
    (ValueError, "k_proj.weight already", load(**{"k_proj.weight": np.ones((E, E))})),
    (
        TypeError,
        "out_proj.bias must be an array of float, got int64",
        load(**{"out_proj.bias": np.ones(E, int)}),
    ),
    (ValueError, 'names must be "torch"', lambda: names("jax")),
]


@pytest.mark.parametrize(("error", "message", "action"), BAD)
def test_errors_name_the_argument(error: type[Exception], message: str, action: Any) -> None:
    with pytest.raises(error, match=message):
        action()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_refused_call_leaves_the_cache_unchanged(dtype: str) -> None:
    layer = MultiHeadAttention(E, 6)
    plain, pages = KVCache(2, 6, 4, dtype=dtype), paged(dtype=dtype)
    long_rope = np.ones((3, 2)), np.zeros((3, 2))  # a row too few
    for options in ({"cache": plain}, {"cache": pages, "seq_ids": [2, 0]}):
        with pytest.raises((TypeError, ValueError), match=r"positions|float64"):
            layer(X, **options, rope=long_rope)
    assert not plain.lengths.any()
    assert pages.lengths == {0: 0, 1: 0, 2: 0}


def test_a_refused_state_leaves_the_layer_unchanged() -> None:
    layer = MultiHeadAttention(E, 6, rng=0)
    before = layer(X)
    with pytest.raises(ValueError, match="missing"):
        layer.load_state_dict({"in_proj_weight": np.ones((3 * E, E))})
    np.testing.assert_array_equal(layer(X), before)


@pytest.mark.parametrize("window", [None, 3])
def test_a_refused_option_leaves_a_cache_as_it_was(window: int | None) -> None:
    layer = MultiHeadAttention(E, 6, rng=0)
    used, fresh = KVCache(2, 6, 4, window=window), KVCache(2, 6, 4, window=window)
    x = np.random.default_rng(0).standard_normal((2, 9, E), np.float32)
    for cache in (used, fresh):
        layer(x[:, :5], cache=cache)
    with pytest.raises(ValueError, match="mask"):
        layer(x[:, 5:7], cache=used, mask=np.ones((2, 99), bool))
    np.testing.assert_array_equal(used.lengths, [5, 5])
    for cut in (slice(5, 8), slice(8, 9)):
        expected = layer(x[:, cut], cache=fresh)
        np.testing.assert_array_equal(layer(x[:, cut], cache=used), expected)


def test_a_refused_option_leaves_sequences_as_they_were() -> None:
    layer, cache = MultiHeadAttention(E, 6), paged()
    layer(X[:, :2], cache=cache, seq_ids=[2, 0])
    with pytest.raises(TypeError, match="softcap"):
        layer(X[:, :2], cache=cache, seq_ids=[2, 0], softcap="loud")
    assert cache.lengths == {0: 2, 1: 0, 2: 2}
    assert cache.free_pages == 2
