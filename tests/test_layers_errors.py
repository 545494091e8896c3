"""Every argument of MultiHeadAttention that is refused."""

from typing import Any

import numpy as np
import pytest

from cpuattn import KVCache, MultiHeadAttention

E = 24


def load(**changed: Any) -> Any:
    state = {**MultiHeadAttention(E, 6).state_dict(), **changed}
    present = {name: array for name, array in state.items() if array is not None}
    return lambda: MultiHeadAttention(E, 6).load_state_dict(present)


def call(*arguments: Any, **options: Any) -> Any:
    return lambda: MultiHeadAttention(E, 6)(*arguments, **options)


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
    (ValueError, r"x must be \(B, Lq, E\) with a KVCache", call(X[0], cache=KVCache(2, 6, 4))),
    (ValueError, "cache must hold 6 heads of 4 features", call(X, cache=KVCache(2, 3, 4))),
    (ValueError, "context must hold 2 entries like x, got 3", call(X, KVCache(3, 6, 4))),
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


def test_a_refused_state_leaves_the_layer_unchanged() -> None:
    layer = MultiHeadAttention(E, 6, rng=0)
    before = layer(X)
    with pytest.raises(ValueError, match="missing"):
        layer.load_state_dict({"in_proj_weight": np.ones((3 * E, E))})
    np.testing.assert_array_equal(layer(X), before)
