"""What cpuattn.integrations.onnx computes, where ONNX's own node tests do not look."""

import doctest
import importlib
import tracemalloc
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import cpuattn
from cpuattn.integrations.onnx import attention
from oracle import Array

B, HQ, HKV, LQ, LK, D, DV = 2, 4, 2, 5, 7, 8, 6
Arguments = dict[str, Any]


def normal(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def inputs(dtype: Any = np.float64) -> tuple[Array, Array, Array]:
    shapes = ((B, HQ, LQ, D), (B, HKV, LK, D), (B, HKV, LK, DV))
    query, key, value = (
        normal(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes, start=1)
    )
    return query, key, value


def draw(seed: int) -> tuple[Arguments, Arguments]:
    """Choose any combination of inputs and attributes that ONNX allows."""
    rng = np.random.default_rng(seed)

    def one_of(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    arrays: Arguments = dict(zip("QKV", inputs(), strict=True))
    total = LK
    cache = one_of("none", "past", "lengths")
    if cache == "past":
        past = int(rng.integers(5))
        total += past
        arrays["past_key"] = rng.standard_normal((B, HKV, past, D))
        arrays["past_value"] = rng.standard_normal((B, HKV, past, DV))
    if cache == "lengths":
        arrays["nonpad_kv_seqlen"] = rng.integers(0, LK + 1, B)
    kind = one_of("none", "bool", "float")
    if kind != "none":
        rows = one_of((), (LQ,), (HQ, LQ), (B, 1, LQ), (1, HQ, LQ), (B, HQ, LQ))
        visible = rng.random((*rows, total - one_of(0, 2))) < 0.7
        bias = np.where(visible, rng.standard_normal(visible.shape), -np.inf)
        arrays["attn_mask"] = visible if kind == "bool" else bias
    options = {
        "is_causal": one_of(0, 1),
        "softcap": one_of(0.0, 0.75),
        "left_window_size": one_of(-1, -1, 0, 3),
        "right_window_size": one_of(-1, -1, 0, 2),
        "qk_matmul_output_mode": one_of(0, 1, 2, 3),
        "scale": one_of(None, 0.25),
    }
    if one_of(True, False):
        for name in "QKV":
            heads_last = arrays[name].swapaxes(1, 2)
            arrays[name] = heads_last.reshape(*heads_last.shape[:2], -1)
        options.update(q_num_heads=HQ, kv_num_heads=HKV)
    return arrays, options


def evaluate(arrays: Arguments, options: Arguments, opset: int = 25, ops: Any = None) -> Any:
    """Run a model of one node Attention by onnx's reference evaluator."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    names = ["Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"]
    given = [name if name in arrays else "" for name in names]
    attributes = {name: value for name, value in options.items() if value is not None}
    outputs = ["Y", "present_key", "present_value", "qk_matmul_output"]
    node = helper.make_node("Attention", given, outputs, **attributes)
    graph = helper.make_graph(
        [node],
        "attention",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in arrays.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model, new_ops=ops).run(None, arrays)


@pytest.mark.parametrize("seed", range(150))
def test_any_combination_is_that_of_the_reference(seed: int) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    arrays, options = draw(seed)
    found = attention(**arrays, **options)
    if "attn_mask" in arrays:
        # The reference makes its causal mask for the rows that attn_mask has.
        mask = arrays["attn_mask"]
        rows = np.broadcast_shapes(mask.shape[:-1], (LQ,))
        arrays["attn_mask"] = np.broadcast_to(mask, (*rows, mask.shape[-1]))
    expected = evaluate(arrays, options)
    if options["qk_matmul_output_mode"] == 0:
        # The reference returns it after the softcap.
        expected[3] = evaluate(arrays, options | {"softcap": 0.0})[3]
    x: Any
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12, strict=True)


def test_mode_0_is_before_the_softcap() -> None:
    query, key, value = inputs()
    capped = attention(query, key, value, softcap=0.1, qk_matmul_output_mode=0)
    plain = cpuattn.attention_weights(query, key, stage="scores")
    assert capped.qk_matmul_output is not None
    np.testing.assert_array_equal(capped.qk_matmul_output, plain)
    assert abs(plain).max() > 0.1


def test_last_axis_of_one_is_a_mask_for_one_key() -> None:
    query, key, value = inputs()
    out = attention(query, key, value, np.ones((LQ, 1), bool)).Y
    first = np.repeat(value[:, :, :1], HQ // HKV, axis=1)
    np.testing.assert_array_equal(out, np.broadcast_to(first, out.shape))


@pytest.mark.parametrize("past", [0, 3])
def test_last_axis_of_one_broadcasts_in_opset_23(past: int) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    from cpuattn.integrations.onnx_ops import Attention

    arrays: Arguments = dict(zip("QKV", inputs(), strict=True))
    arrays["past_key"], arrays["past_value"] = normal(B, HKV, past, D), normal(B, HKV, past, DV)
    arrays["attn_mask"] = np.array([[True], [False], [True], [True], [True]])
    full = np.broadcast_to(arrays["attn_mask"], (LQ, past + LK))
    expected = attention(**arrays | {"attn_mask": full}).Y
    found = evaluate(arrays, {}, opset=23, ops=[Attention])[0]
    np.testing.assert_array_equal(found, expected)
    later = evaluate(arrays, {}, opset=24, ops=[Attention])[0]
    np.testing.assert_array_equal(later, attention(**arrays).Y)
    assert not np.array_equal(found, later)


def test_one_row_of_a_mask_does_not_change_the_causal_one() -> None:
    query, key, value = inputs()
    row = np.array([[True, True, False, True, True, True, True]])
    found = attention(query, key, value, row, is_causal=1).Y
    whole = attention(query, key, value, np.tri(LQ, LK, dtype=bool) & row).Y
    np.testing.assert_allclose(found, whole, rtol=1e-12)


def test_integers_are_added_as_they_are() -> None:
    query, key, value = inputs()
    numbers = np.arange(LQ * LK).reshape(LQ, LK) % 4
    found = attention(query, key, value, numbers).Y
    np.testing.assert_array_equal(found, attention(query, key, value, numbers * 1.0).Y)
    assert not np.array_equal(found, attention(query, key, value).Y)


def test_value_may_have_another_dtype() -> None:
    query, key, value = inputs(np.float32)
    wide = value.astype(np.float64)
    found = attention(query, key, wide, qk_matmul_output_mode=3)
    assert [x.dtype for x in found if x is not None] == ["f4", "f4", "f8", "f4"]
    exact = cpuattn.attention(query.astype(float), key.astype(float), wide)
    np.testing.assert_array_equal(found.Y, exact.astype(np.float32))


@pytest.mark.parametrize("names", ["float16 float16", "float16 float32", "bfloat16 float16"])
def test_narrow_dtypes(names: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    dtypes = {"float16": np.float16, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
    of_query, of_value = (np.dtype(dtypes[name]) for name in names.split())
    query, key, value = inputs()
    query, key, value = query.astype(of_query), key.astype(of_query), value.astype(of_value)
    mask = normal(LQ, LK, seed=9).astype(of_query)
    found = attention(query, key, value, mask, qk_matmul_output_mode=3)
    exact = attention(
        *(x.astype(np.float64) for x in (query, key, value, mask)), qk_matmul_output_mode=3
    )
    # A kernel that multiplies in bfloat16 rounds the weights too, so each term, not only the sum.
    eps = float(ml_dtypes.finfo(of_query).eps)
    x: Any
    y: Any
    for x, y in ((found.Y, exact.Y), (found.qk_matmul_output, exact.qk_matmul_output)):
        assert x.dtype == of_query
        np.testing.assert_allclose(x.astype(np.float64), y, rtol=eps, atol=eps)


def test_softmax_in_double_precision() -> None:
    query, key, value = inputs(np.float32)
    doubles = (x.astype(np.float64) for x in (query, key, value))
    exact = cpuattn.attention(*doubles).astype(np.float32)
    found = attention(query, key, value, softmax_precision=11)
    np.testing.assert_array_equal(found.Y, exact)
    for precision in (None, 1, 10, 16):  # never less than float32
        found = attention(query, key, value, softmax_precision=precision)
        np.testing.assert_array_equal(found.Y, cpuattn.attention(query, key, value))


def test_present_is_not_copied_without_a_past() -> None:
    x = normal(B, LK, HKV * D)
    result = attention(x, x, x, q_num_heads=HKV, kv_num_heads=HKV)
    assert result.present_key.shape == (B, HKV, LK, D)
    assert np.shares_memory(result.present_key, x)
    assert np.shares_memory(result.present_value, x)


def test_what_is_hidden_does_not_leak() -> None:
    query, key, value = inputs()
    expected = attention(query, key, value, nonpad_kv_seqlen=np.array([3, 6])).Y
    for entry, length in enumerate((3, 6)):
        key[entry, :, length:] = value[entry, :, length:] = np.nan
    found = attention(query, key, value, nonpad_kv_seqlen=np.array([3, 6])).Y
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("sizes", [(0, 5, 7), (2, 0, 7), (2, 5, 0)], ids=["B", "Lq", "L"])
def test_empty_axes(sizes: tuple[int, int, int]) -> None:
    batch, rows, keys = sizes
    query, x = normal(batch, HQ, rows, D), normal(batch, HKV, keys, D)
    mask = np.ones((rows, keys), bool)
    for mode in range(4):
        found = attention(query, x, x, mask, is_causal=1, qk_matmul_output_mode=mode)
        assert found.qk_matmul_output is not None
        assert found.qk_matmul_output.shape == (batch, HQ, rows, keys)
        np.testing.assert_array_equal(found.Y, np.zeros((batch, HQ, rows, D)))


def test_scores_are_made_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Mock(wraps=cpuattn.attention_weights)
    monkeypatch.setattr(cpuattn, "attention_weights", weights)
    length = 2000
    x = np.ones((1, 1, length, 8), np.float32)
    mask = np.ones((1, length - 5), np.float32)  # one row, shorter than the keys
    lengths = np.array([length - 9])
    tracemalloc.start()
    attention(x, x, x, mask, nonpad_kv_seqlen=lengths, is_causal=1, left_window_size=9, softcap=1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes + length * 100
    assert not weights.called
    attention(x, x, x, qk_matmul_output_mode=0)
    assert weights.called


def test_any_byte_order_and_strides() -> None:
    query, key, value = inputs(np.float32)
    backwards = query[:, :, ::-1].astype(">f4")[:, :, ::-1]
    by_columns = value.transpose(3, 2, 1, 0).copy().transpose(3, 2, 1, 0)
    found = attention(backwards, key.astype(">f4"), by_columns).Y
    np.testing.assert_array_equal(found, cpuattn.attention(query, key, value))


@pytest.mark.parametrize("name", ["onnx", "onnx_ops"])
def test_examples_in_docstrings(name: str) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    result = doctest.testmod(importlib.import_module(f"cpuattn.integrations.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
