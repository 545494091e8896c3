"""MultiHeadAttention against its formula written out per head, and against torch's module."""

import doctest
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cpuattn
import oracle
from cpuattn import KVCache, MultiHeadAttention, rotary_embedding
from cpuattn.layers import multi_head_attention

Array = NDArray[Any]
E = 24


def formula(
    layer: MultiHeadAttention, x: Array, key_input: Array, value_input: Array, **options: Any
) -> Array:
    """Result of the layer, head by head, in the dtype of x."""
    weights = {name: w.astype(x.dtype) for name, w in layer.state_dict(names="huggingface").items()}

    def project(name: str, y: Array) -> Array:
        projected: Array = y @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)
        return projected

    q, k, v = project("q_proj", x), project("k_proj", key_input), project("v_proj", value_input)
    group, d = layer.num_heads // layer.kv_heads, layer.head_dim
    heads = []
    for h in range(layer.num_heads):
        own, shared = slice(h * d, (h + 1) * d), slice(h // group * d, (h // group + 1) * d)
        one = (y[..., None, :, columns] for y, columns in ((q, own), (k, shared), (v, shared)))
        heads.append(oracle.attend(*one, dtype=x.dtype.type, **options).out[..., 0, :, :])
    return project("out_proj", np.concatenate(heads, axis=-1))


def assert_follows_formula(
    layer: MultiHeadAttention, actual: Array, x: Array, key_input: Array, value_input: Array
) -> None:
    wide = [y.astype(np.longdouble) for y in (x, key_input, value_input)]
    plain = formula(layer, x, key_input, value_input)
    oracle.assert_accurate(actual, formula(layer, *wide), plain)


def random(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def layer_with_biases(**options: Any) -> MultiHeadAttention:
    """A layer whose biases are not zero, as if trained."""
    layer = MultiHeadAttention(E, 6, rng=0, **options)
    state = layer.state_dict(names="huggingface")
    layer.load_state_dict(
        {name: w if w.ndim == 2 else random(*w.shape) for name, w in state.items()}
    )
    return layer


OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"kv_heads": 2},
    {"kv_heads": 1, "head_dim": 5},
    {"dtype": "float64"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(7, E), (2, 7, E), (2, 1, 7, E)])
def test_self_attention(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    layer = layer_with_biases(**options)
    x = random(*shape, dtype=layer.dtype)
    out = layer(x)
    assert out.shape == shape
    assert_follows_formula(layer, out, x, x, x)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cross_attention(options: dict[str, Any]) -> None:
    layer = layer_with_biases(**options, key_dim=10, value_dim=10)
    x, context = random(3, 4, E, dtype=layer.dtype), random(3, 9, 10, dtype=layer.dtype)
    assert_follows_formula(layer, layer(x, context), x, context, context)
    shared = layer(x, context[0])  # one context for all entries
    assert_follows_formula(layer, shared, x, context[:1], context[:1])


def test_keys_and_values_from_different_inputs() -> None:
    layer = layer_with_biases(key_dim=10, value_dim=3)
    x, key_input, value_input = random(2, 4, E), random(2, 9, 10), random(2, 9, 3)
    out = layer(x, (key_input, value_input))
    assert_follows_formula(layer, out, x, key_input, value_input)


def test_heads_are_views_that_attention_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Array] = {}

    def spy(query: Array, key: Array, value: Array, *, out: Array, **options: Any) -> Array:
        seen.update(query=query, key=key, value=value, out=out)
        plan = cpuattn.explain(query, key, value, out=out, **options)
        assert plan["copies"] == []
        result: Array = cpuattn.attention(query, key, value, out=out, **options)
        return result

    monkeypatch.setattr(multi_head_attention, "attention", spy)
    MultiHeadAttention(E, 6, kv_heads=2)(random(2, 7, E), causal=True)
    for name, heads in (("query", 6), ("key", 2), ("value", 2), ("out", 6)):
        assert seen[name].shape == (2, heads, 7, 4)
        row = 4 * heads * 4  # bytes of one token: all its heads side by side
        assert seen[name].strides == (7 * row, 16, row, 4), name


@pytest.mark.parametrize("rope_table", [2, 3])
def test_decoding_on_a_cache_is_the_full_causal_pass(rope_table: int) -> None:
    layer = layer_with_biases(kv_heads=2)
    angles = np.arange(12)[:, None] * [1.0, 0.1]
    cos, sin = np.cos(angles), np.sin(angles)
    x = random(2, 12, E)
    full = layer(x, causal=True, rope=(cos, sin, True))
    assert not np.allclose(full, layer(x, causal=True, rope=(cos, sin)), atol=1e-3)
    cache = KVCache(2, 2, 4)
    for start, end in ((0, 5), (5, 6), (6, 9), (9, 12)):
        rope = (
            (cos, sin, True)
            if rope_table == 2
            else (cos[None, start:end], sin[None, start:end], True)
        )
        out = layer(x[:, start:end], cache=cache, rope=rope, causal=True)
        np.testing.assert_allclose(out, full[:, start:end], rtol=1e-5, atol=1e-6)


def test_rope_turns_query_and_key_heads() -> None:
    layer = layer_with_biases(kv_heads=2, dtype="float64")
    cos, sin = np.cos([[0.0], [0.5], [1.0]]), np.sin([[0.0], [0.5], [1.0]])
    x = random(3, E, dtype=np.float64)
    w = layer.state_dict(names="huggingface")
    q, k, v = (
        (x @ w[f"{p}.weight"].T + w[f"{p}.bias"]).reshape(3, -1, 4).swapaxes(0, 1)
        for p in ("q_proj", "k_proj", "v_proj")
    )
    heads = oracle.attend(rotary_embedding(q, cos, sin), rotary_embedding(k, cos, sin), v).out
    expected = heads.swapaxes(0, 1).reshape(3, E) @ w["out_proj.weight"].T + w["out_proj.bias"]
    np.testing.assert_allclose(layer(x, rope=(cos, sin)), expected, rtol=1e-12, atol=1e-13)


def test_rope_tables_of_hugging_face() -> None:
    layer, x = layer_with_biases(head_dim=8), random(2, 5, E)
    angles = np.arange(5)[:, None] * [1.0, 0.1]
    half = np.cos(angles), np.sin(angles)
    cos, sin = (np.concatenate([t, t], axis=-1) for t in half)
    expected = layer(x, rope=half)
    np.testing.assert_array_equal(layer(x, rope=(cos, sin, False, 4)), expected)
    with pytest.raises(ValueError, match="give rotary_dim=4 if so"):
        layer(x, rope=(cos, sin))
    narrow = layer_with_biases()
    np.testing.assert_array_equal(narrow(x, rope=(cos, sin)), narrow(x, rope=half))


@pytest.mark.parametrize("causal", [False, True])
def test_padding_on_the_right_changes_nothing(causal: bool) -> None:
    layer = layer_with_biases()
    angles = np.arange(8)[:, None] * [1.0, 0.1]
    rope = np.cos(angles), np.sin(angles)
    lengths = [8, 3]
    x = random(2, 8, E)
    x[1, 3:] = np.nan
    alone = [layer(x[b, :n], causal=causal, rope=rope) for b, n in enumerate(lengths)]

    out = layer(x, key_lengths=lengths, causal=causal, rope=rope)
    cache = KVCache(2, 6, 4)
    cached = layer(x, cache=cache, key_lengths=lengths, causal=causal, rope=rope)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(out[b, :n], alone[b], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cached[b, :n], alone[b], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(cache.lengths, lengths)


def test_padded_entry_at_the_end_of_the_rope_table() -> None:
    layer = layer_with_biases()
    rope = np.cos(np.arange(6)[:, None]), np.sin(np.arange(6)[:, None])
    cache, x = KVCache(2, 6, 4), random(2, 5, E)
    layer(x[:, :4], cache=cache, rope=rope)
    layer(x[:, :3], cache=cache, rope=rope, key_lengths=[2, 1])  # token 6 would not be in it
    np.testing.assert_array_equal(cache.lengths, [6, 5])
    with pytest.raises(ValueError, match=r"positions must be in \[0, 6\)"):
        layer(x[:, :1], cache=cache, rope=rope)


def test_a_projected_context_needs_no_second_projection() -> None:
    layer = layer_with_biases(kv_heads=2, key_dim=10, value_dim=10)
    x, context = random(2, 4, E), random(2, 9, 10)
    expected = layer(x, context, key_lengths=[9, 6])
    cache = KVCache(2, 2, 4)
    np.testing.assert_array_equal(layer(x, context, cache=cache, key_lengths=[9, 6]), expected)
    for token in range(4):
        out = layer(x[:, token : token + 1], cache)
        np.testing.assert_allclose(out[:, 0], expected[:, token], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(cache.lengths, [9, 6])


def test_initial_weights_are_those_of_torch() -> None:
    wide = MultiHeadAttention(256, 4, rng=7).state_dict()
    for name, bound in (("in_proj_weight", (6 / (256 + 768)) ** 0.5), ("out_proj.weight", 1 / 16)):
        assert abs(wide[name]).max() == pytest.approx(bound, rel=1e-3)
        assert wide[name].std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not wide["in_proj_bias"].any()
    separate = MultiHeadAttention(256, 4, key_dim=128, rng=7).state_dict()
    assert abs(separate["k_proj_weight"]).max() == pytest.approx((6 / (128 + 256)) ** 0.5, rel=1e-3)

    again = MultiHeadAttention(256, 4, rng=np.random.default_rng(7)).state_dict()
    np.testing.assert_array_equal(again["in_proj_weight"], wide["in_proj_weight"])
    other = MultiHeadAttention(256, 4, rng=8).state_dict()
    assert (other["in_proj_weight"] != wide["in_proj_weight"]).any()


@pytest.mark.parametrize("names", ["torch", "huggingface"])
@pytest.mark.parametrize("options", [*OPTIONS, {"key_dim": 10}], ids=str)
def test_state_dict_round_trip(options: dict[str, Any], names: Any) -> None:
    source, target = layer_with_biases(**options), MultiHeadAttention(E, 6, rng=1, **options)
    target.load_state_dict(source.state_dict(names=names))
    x, k = random(2, 4, E, dtype=source.dtype), random(2, 5, source.key_dim, dtype=source.dtype)
    v = random(2, 5, E, dtype=source.dtype)
    np.testing.assert_array_equal(target(x, (k, v)), source(x, (k, v)))


def test_names_of_hugging_face_models() -> None:
    source = layer_with_biases(kv_heads=2)
    weights = source.state_dict(names="huggingface")
    prefix = "model.layers.0.self_attn."
    renamed = {prefix + n.replace("out_proj", "o_proj"): w for n, w in weights.items()}
    renamed["model.norm.weight"] = np.ones(E)
    llama = MultiHeadAttention(E, 6, kv_heads=2, bias=False)
    without_biases = {n: w for n, w in renamed.items() if not n.endswith(".bias")}
    llama.load_state_dict(without_biases, prefix=prefix)
    assert_follows_formula(llama, llama(random(3, E)), *[random(3, E)] * 3)
    assert not any(n.endswith(".bias") for n in llama.state_dict(names="huggingface"))

    whisper = MultiHeadAttention(E, 6, kv_heads=2)
    whisper.load_state_dict({n: w for n, w in weights.items() if n != "k_proj.bias"})
    # A bias of the keys adds the same to all scores of a row, so the result does not need it.
    np.testing.assert_allclose(whisper(random(3, E)), source(random(3, E)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(whisper.state_dict()["in_proj_bias"][24:32], np.zeros(8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key_dim", [E, 10])
def test_loaded_weights_are_copies_in_the_dtype_of_the_layer(key_dim: int, dtype: Any) -> None:
    layer = MultiHeadAttention(E, 6, bias=False, key_dim=key_dim)
    state = {name: array.astype(dtype) for name, array in layer.state_dict().items()}
    layer.load_state_dict(state)
    inputs = random(2, 3, E), (random(2, 5, key_dim), random(2, 5, E))
    before = layer(*inputs)
    assert before.dtype == np.float32
    given_back = [layer.state_dict(), layer.state_dict(names="huggingface")]
    for arrays in (state, *given_back):
        for array in arrays.values():
            array[...] = np.nan
    np.testing.assert_array_equal(layer(*inputs), before)


@pytest.mark.parametrize("wide", [False, True])
def test_torch_module_with_the_same_state(wide: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    dims = {"kdim": 10, "vdim": 14} if wide else {}
    module = torch.nn.MultiheadAttention(E, 6, batch_first=True, dtype=torch.float64, **dims)
    torch.nn.init.normal_(module.in_proj_bias)
    torch.nn.init.normal_(module.out_proj.bias)
    sizes: dict[str, Any] = {"key_dim": 10, "value_dim": 14} if wide else {}
    layer = MultiHeadAttention(E, 6, dtype="float64", rng=0, **sizes)
    layer.load_state_dict(module.state_dict())

    x, k, v = (random(3, n, d, dtype=np.float64) for n, d in ((5, E), (7, 10), (7, 14)))
    key, value = (k, v) if wide else (random(3, 7, E, dtype=np.float64),) * 2
    padding = np.arange(7) >= np.array([[7], [2], [5]])
    mask = np.random.default_rng(0).random((5, 7)) < 0.3
    mask[:, 0] = False
    expected = module(
        *map(torch.from_numpy, (x, key, value)),
        key_padding_mask=torch.from_numpy(padding),
        attn_mask=torch.from_numpy(mask),
        need_weights=False,
    )[0]
    actual = layer(x, (key, value), key_lengths=[7, 2, 5], mask=~mask)
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-11, atol=1e-13)

    back = {name: torch.from_numpy(array) for name, array in layer.state_dict().items()}
    assert module.load_state_dict(back).missing_keys == []


def test_repr_tells_sizes_and_dtype() -> None:
    layer = MultiHeadAttention(64, 8, kv_heads=2, bias=False, dtype="float64")
    assert repr(layer) == (
        "MultiHeadAttention(embed_dim=64, num_heads=8, kv_heads=2, head_dim=8, bias=False, "
        "dtype=float64)"
    )
    assert "value_dim=5" in repr(MultiHeadAttention(64, 8, value_dim=5))


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(multi_head_attention)
    assert result.attempted >= 5
    assert result.failed == 0
