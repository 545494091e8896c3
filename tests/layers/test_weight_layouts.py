"""Checkpoints of all layouts and names, laid out here element by element: no other package."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import oracle
from cpuattn import KVCache, MultiHeadAttention, rotary_embedding
from oracle import Array

E, HEADS, KV_HEADS, D, DV = 24, 6, 2, 4, 5


def random(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape)


def separate(kv_heads: int = KV_HEADS, *, bias: bool = True) -> dict[str, Array]:
    """Weights under the names that the layer itself has."""
    rows = {"q_proj": HEADS * D, "k_proj": kv_heads * D, "v_proj": kv_heads * DV, "out_proj": E}
    columns = {"out_proj": HEADS * DV}
    state = {f"{name}.weight": random(n, columns.get(name, E)) for name, n in rows.items()}
    if bias:
        state |= {f"{name}.bias": random(n, 3)[:, 1] for name, n in rows.items()}
    return state


def layer_of(state: Mapping[str, Any], kv_heads: int = KV_HEADS, **load: Any) -> MultiHeadAttention:
    bias = any(name.endswith(".bias") for name in state)
    layer = MultiHeadAttention(
        E,
        HEADS,
        kv_heads=kv_heads,
        head_dim=D,
        value_head_dim=DV,
        bias=bias,
        norm_eps=1e-3,
        dtype="float64",
        rng=1,
    )
    layer.load_state_dict(state, **load)
    return layer


def assert_loaded(layer: MultiHeadAttention, expected: Mapping[str, Array]) -> None:
    got = layer.state_dict(names="huggingface")
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def concatenated(q: Array, k: Array, v: Array, kv_heads: int) -> Array:
    del kv_heads
    return np.array([*q, *k, *v])


def grouped(q: Array, k: Array, v: Array, kv_heads: int) -> Array:
    """For each key/value head, the rows of its queries, then of its key, then of its value."""
    rows = []
    for h in range(kv_heads):
        per_group = HEADS // kv_heads * D
        rows += [*q[h * per_group : (h + 1) * per_group]]
        rows += [*k[h * D : (h + 1) * D], *v[h * DV : (h + 1) * DV]]
    return np.array(rows)


Fuse = Callable[[Array, Array, Array, int], Array]


def fused(state: Mapping[str, Array], module: str, output: str, fuse: Fuse, heads: int) -> Any:
    whole = {}
    for kind in {name.split(".")[1] for name in state}:
        q, k, v = (state[f"{p}_proj.{kind}"] for p in "qkv")
        whole[f"{module}.{kind}"] = fuse(q, k, v, heads)
        whole[f"{output}.{kind}"] = state[f"out_proj.{kind}"]
    return whole


FUSED: list[tuple[str, str, Fuse, str | None]] = [
    ("qkv_proj", "o_proj", concatenated, None),
    ("qkv_proj", "out_proj", concatenated, "concatenated"),
    ("Wqkv", "out_proj", concatenated, None),
    ("Wqkv", "Wo", concatenated, None),
    ("W_pack", "o_proj", concatenated, None),
    ("qkv", "proj", concatenated, None),
    ("query_key_value", "dense", grouped, None),
    ("self_attention.query_key_value", "self_attention.dense", grouped, None),
    ("query_key_value", "dense", concatenated, "concatenated"),
    ("wqkv", "wo", grouped, None),
    ("c_attn", "c_proj", grouped, "grouped"),
    ("c_attn", "c_proj", concatenated, "concatenated"),
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize(("module", "output", "fuse", "layout"), FUSED)
def test_fused(
    module: str, output: str, fuse: Fuse, layout: str | None, kv_heads: int, *, bias: bool
) -> None:
    state = separate(kv_heads, bias=bias)
    whole = fused(state, module, output, fuse, kv_heads)
    assert_loaded(layer_of(whole, kv_heads, layout=layout), state)


def test_one_key_head_needs_no_layout() -> None:
    """GPTBigCode's c_attn, whose groups of one are a concatenation."""
    state = separate(1)
    assert_loaded(layer_of(fused(state, "c_attn", "c_proj", grouped, 1), 1), state)


@pytest.mark.parametrize("layout", [None, "conv1d"])
def test_conv1d(layout: str | None) -> None:
    """GPT-2's weights are (in_features, out_features); its causal mask is called bias."""
    state = separate()
    whole = fused(state, "c_attn", "c_proj", concatenated, KV_HEADS)
    whole = {name: array.T for name, array in whole.items()}
    whole["bias"] = np.tril(np.ones((1, 1, 9, 9), bool))
    whole["masked_bias"] = np.array(-1e4)
    assert_loaded(layer_of(whole, layout=layout), state)


NAMES = [
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"),
    ("self.query", "self.key", "self.value", "output.dense"),
    (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ),
    ("attention.query", "attention.key", "attention.value", "output.dense"),
    ("query", "key", "value", "dense"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
    ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o"),
    (*(f"EncDecAttention.{name}" for name in "qkvo"),),
    ("to_q", "to_k", "to_v", "to_out.0"),
    ("wq", "wk", "wv", "wo"),
]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_names(names: tuple[str, ...]) -> None:
    state = separate()
    ours = ("q_proj", "k_proj", "v_proj", "out_proj")
    renamed = {
        f"layer.0.{theirs}.{kind}": state[f"{name}.{kind}"]
        for name, theirs in zip(ours, names, strict=True)
        for kind in ("weight", "bias")
    }
    assert_loaded(layer_of(renamed, prefix="layer.0."), state)


def test_buffers_are_not_weights() -> None:
    state = separate()
    buffers = {
        "rotary_emb.inv_freq": random(2),
        "attention.rotary_emb.inv_freq": random(2),
        "attention.bias": np.tril(np.ones((1, 1, 9, 9), np.uint8)),
        "bias": np.tril(np.ones((1, 1, 9, 9), np.float16)),
        "masked_bias": np.array(-1e9),
        "output.LayerNorm.weight": random(E),
        "output.LayerNorm.bias": random(E),
    }
    assert_loaded(layer_of(state | buffers), state)
    with pytest.raises(ValueError, match=r"unexpected names \['bias'\]"):
        layer_of(state | {"bias": random(E)})  # a weight, whatever it is for


def rms(x: Array, weight: Array) -> Array:
    normed: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-3) * weight
    return normed


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("whole", [False, True], ids=["each head", "all heads"])
def test_norms_of_query_and_key(*, whole: bool, offset: float) -> None:
    state = separate()
    widths = (HEADS * D, KV_HEADS * D) if whole else (D, D)
    norms = {"q_norm.weight": random(widths[0]), "k_norm.weight": random(widths[1])}
    layer = layer_of(state | norms, norm_offset=offset)
    assert_loaded(layer, state | {name: w + offset for name, w in norms.items()})

    x = random(2, 7, E)
    heads = {}
    for p, count in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
        y = x @ state[f"{p}_proj.weight"].T + state[f"{p}_proj.bias"]
        norm = norms.get(f"{p}_norm.weight")
        if norm is not None and whole:
            y = rms(y, norm + offset)
        y = y.reshape(2, 7, count, -1)
        if norm is not None and not whole:
            y = rms(y, norm + offset)
        heads[p] = y.swapaxes(1, 2)
    angles = np.arange(7)[:, None] * [1.0, 0.1]
    rope = np.cos(angles), np.sin(angles)
    q, k = (rotary_embedding(heads[p], *rope) for p in "qk")
    out = oracle.attend(q, k, heads["v"], causal=True).out.swapaxes(1, 2).reshape(2, 7, -1)
    expected = out @ state["out_proj.weight"].T + state["out_proj.bias"]
    np.testing.assert_allclose(layer(x, causal=True, rope=rope), expected, rtol=1e-10, atol=1e-12)

    cache = KVCache(2, KV_HEADS, D, value_dim=DV, dtype="float64")
    parts = [layer(x[:, t : t + 1], cache=cache, causal=True, rope=rope) for t in range(7)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=1e-10, atol=1e-12)

    layer.load_state_dict(state)  # of a model that has none
    assert_loaded(layer, state)


@pytest.mark.parametrize("names", ["torch", "huggingface"])
def test_round_trip_with_norms_and_sinks(names: Any) -> None:
    extra = {"q_norm.weight": random(D), "k_norm.weight": random(D), "sinks": random(HEADS)}
    layer = layer_of(separate() | extra)
    again = layer_of(layer.state_dict(names=names))
    x = random(3, E)
    np.testing.assert_array_equal(layer(x), again(x))
    without = layer(x, sinks=None)
    assert not np.allclose(layer(x), without)
    np.testing.assert_array_equal(layer(x), layer(x, sinks=extra["sinks"]))
    layer.load_state_dict(separate() | extra | {"sinks": np.full(HEADS, -np.inf)})
    np.testing.assert_array_equal(layer(x), without)


BAD: list[tuple[str, Callable[[], Any]]] = [
    (
        "layout is missing: c_attn.weight does not say",
        lambda: layer_of(fused(separate(), "c_attn", "c_proj", concatenated, KV_HEADS)),
    ),
    (
        "layout is missing: qkv_proj.weight does not say",  # CodeGen's
        lambda: layer_of(fused(separate(bias=False), "qkv_proj", "out_proj", concatenated, 2)),
    ),
    ("layout must be one of", lambda: layer_of(separate(), layout="interleaved")),
    ("layout is 'grouped', but state holds no", lambda: layer_of(separate(), layout="grouped")),
    (
        "query_key_value.weight must have 42 rows",
        lambda: layer_of(separate() | {"query_key_value.weight": random(41, E)}),
    ),
    (
        "q_proj.weight already",
        lambda: layer_of(separate() | {"query.weight": random(E, E)}),
    ),
    (
        r"missing names \['k_norm.weight'\]",
        lambda: layer_of(separate() | {"q_norm.weight": random(D)}),
    ),
    (
        r"q_norm.weight must have shape \(4,\) or \(24,\), got \(6, 4\)",  # Cohere's LayerNorm
        lambda: layer_of(separate() | {"q_norm.weight": random(6, 4), "k_norm.weight": random(D)}),
    ),
    (
        r"unexpected names \['q_norm.bias'\]",
        lambda: layer_of(separate() | {"q_norm.bias": random(D)}),
    ),
    (
        # T5's, which changes results
        r"unexpected names \['SelfAttention.relative_attention_bias.weight'\]",
        lambda: layer_of(separate() | {"SelfAttention.relative_attention_bias.weight": random(3)}),
    ),
    (r"sinks must have shape \(6,\)", lambda: layer_of(separate() | {"sinks": random(2)})),
    ("norm_offset is 1, but state holds no", lambda: layer_of(separate(), norm_offset=1)),
    ("norm_offset must be finite", lambda: layer_of(separate(), norm_offset=np.nan)),
    ("norm_eps must be finite", lambda: MultiHeadAttention(E, HEADS, norm_eps=-1)),
    ("value_head_dim must be at least 1", lambda: MultiHeadAttention(E, HEADS, value_head_dim=0)),
    (
        "cache must hold 2 heads of 4 features for keys and 5 for values like the layer",
        lambda: layer_of(separate())(
            random(1, 3, E), cache=KVCache(1, KV_HEADS, D, dtype="float64")
        ),
    ),
]


@pytest.mark.parametrize(("message", "action"), BAD, ids=[row[0][:30] for row in BAD])
def test_errors(message: str, action: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=message):
        action()


def test_type_errors() -> None:
    with pytest.raises(TypeError, match="norm_eps must be a number, got 'small'"):
        MultiHeadAttention(E, HEADS, norm_eps="small")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"q_norm.weight must be an array of float, got int64"):
        layer_of(separate() | {"q_norm.weight": np.ones(D, int), "k_norm.weight": random(D)})
