"""Arguments of the ONNX operators that are refused, and what the message says then."""

from typing import Any

import numpy as np
import pytest

from cpuattn.integrations.onnx import attention
from oracle import Array
from scripts import start_python

Arguments = dict[str, Any]


def ones(*shape: int, dtype: Any = np.float32) -> Array:
    return np.ones(shape, dtype)


def good() -> Arguments:
    """B 2, Hq 6, Hkv 3, Lq 4, L 5, D 7, Dv 8, all of them different."""
    return {"Q": ones(2, 6, 4, 7), "K": ones(2, 3, 5, 7), "V": ones(2, 3, 5, 8)}


def flat(q_num_heads: int | None = 6, kv_num_heads: int | None = 3) -> Arguments:
    """Give the same with heads merged into the last axis."""
    arrays = {"Q": ones(2, 4, 42), "K": ones(2, 5, 21), "V": ones(2, 5, 24)}
    return arrays | {"q_num_heads": q_num_heads, "kv_num_heads": kv_num_heads}


def past(length: int = 3, **changed: Any) -> Arguments:
    return {"past_key": ones(2, 3, length, 7), "past_value": ones(2, 3, length, 8), **changed}


LENGTHS: Arguments = {"nonpad_kv_seqlen": np.array([4, 5])}

# Bad arguments, and what the message must hold: the name, what came, what may come.
VALUES: list[tuple[Arguments, list[str]]] = [
    # Ranks and heads
    ({"Q": ones(4, 7)}, ["Q", "(4, 7)", "3-D", "4-D"]),
    ({"Q": ones(1, 2, 6, 4, 7)}, ["Q", "(1, 2, 6, 4, 7)", "3-D", "4-D"]),
    ({"K": ones(2, 5, 21)}, ["K", "(2, 5, 21)", "must be 3-D"]),
    ({"V": ones(2, 5, 24)}, ["V", "(2, 5, 24)", "or all 4-D"]),
    (flat(None, 3), ["q_num_heads must be given", "Q", "(2, 4, 42)"]),
    (flat(6, None), ["kv_num_heads must be given", "K", "(2, 5, 21)"]),
    (flat(5, 3), ["Q", "(2, 4, 42)", "multiple of q_num_heads, 5"]),
    (flat(6, 2), ["K", "(2, 5, 21)", "multiple of kv_num_heads, 2"]),
    (flat() | {"V": ones(2, 5, 25)}, ["V", "(2, 5, 25)", "multiple of kv_num_heads, 3"]),
    (flat(0, 3), ["q_num_heads", "at least 1", "0"]),
    (flat(7, 3) | {"Q": ones(2, 4, 49)}, ["Q has 7 heads and K 3", "multiple"]),
    ({"Q": ones(2, 4, 4, 7)}, ["Q has 4 heads and K 3", "multiple"]),
    ({"Q": ones(2, 2, 4, 7)}, ["Q has 2 heads and K 3", "multiple"]),
    ({"K": ones(2, 0, 5, 7), "V": ones(2, 0, 5, 8)}, ["Q has 6 heads and K 0"]),
    ({"q_num_heads": 3}, ["q_num_heads is 3", "6 heads", "leave q_num_heads out"]),
    ({"kv_num_heads": 6}, ["kv_num_heads is 6", "K", "3 heads"]),
    # Sizes
    ({"K": ones(1, 3, 5, 7)}, ["K", "(2, any, any, 7)", "(1, 3, 5, 7)"]),
    ({"K": ones(2, 3, 5, 6)}, ["K", "(2, any, any, 7)", "(2, 3, 5, 6)"]),
    ({"V": ones(2, 3, 6, 8)}, ["V", "(2, 3, 5, any)", "(2, 3, 6, 8)"]),
    ({"V": ones(2, 6, 5, 8)}, ["V", "(2, 3, 5, any)", "(2, 6, 5, 8)"]),
    # Past and lengths
    ({"past_key": ones(2, 3, 3, 7)}, ["past_key is given without past_value"]),
    ({"past_value": ones(2, 3, 3, 8)}, ["past_value is given without past_key"]),
    (past(past_key=ones(2, 6, 3, 7)), ["past_key", "(2, 3, any, 7)", "(2, 6, 3, 7)"]),
    (past(past_key=ones(2, 3, 21)), ["past_key", "(2, 3, any, 7)", "(2, 3, 21)"]),
    (past(past_value=ones(2, 3, 4, 8)), ["past_value", "(2, 3, 3, 8)", "(2, 3, 4, 8)"]),
    (past() | LENGTHS, ["nonpad_kv_seqlen", "past_key", "past_value"]),
    ({"past_value": ones(2, 3, 3, 8)} | LENGTHS, ["nonpad_kv_seqlen", "past_value"]),
    ({"nonpad_kv_seqlen": np.array([4])}, ["nonpad_kv_seqlen", "(2)", "(1,)"]),
    ({"nonpad_kv_seqlen": np.array([4, 6])}, ["nonpad_kv_seqlen", "from 0 to 5", "[4 6]"]),
    ({"nonpad_kv_seqlen": np.array([-1, 5])}, ["nonpad_kv_seqlen", "from 0 to 5", "[-1  5]"]),
    # Masks
    ({"attn_mask": ones(4, 6)}, ["attn_mask", "(4, 6)", "(2, 6, 4, 5)", "shorter"]),
    ({"attn_mask": ones(3, 5)}, ["attn_mask", "(3, 5)", "(2, 6, 4, 5)"]),
    ({"attn_mask": ones(2, 4, 5)}, ["attn_mask", "(2, 4, 5)", "(2, 6, 4, 5)"]),
    ({"attn_mask": ones(3, 1, 1, 5)}, ["attn_mask", "(3, 1, 1, 5)"]),
    ({"attn_mask": ones(1, 1, 1, 4, 5)}, ["attn_mask", "(1, 1, 1, 4, 5)"]),
    ({"attn_mask": ones()}, ["attn_mask", "()"]),
    (past() | {"attn_mask": ones(4, 9)}, ["attn_mask", "(4, 9)", "(2, 6, 4, 8)"]),
    # Attributes
    ({"is_causal": 2}, ["is_causal", "0 or 1", "2"]),
    ({"softcap": -1.0}, ["softcap", "positive", "-1.0"]),
    ({"softcap": float("nan")}, ["softcap", "nan"]),
    ({"scale": float("inf")}, ["scale", "inf"]),
    ({"softmax_precision": 7}, ["softmax_precision", "1 (float32)", "11 (float64)", "7"]),
    ({"qk_matmul_output_mode": 4}, ["qk_matmul_output_mode", "0, 1, 2, 3", "4"]),
    ({"qk_matmul_output_mode": -1}, ["qk_matmul_output_mode", "-1"]),
    ({"left_window_size": -2}, ["left_window_size", "at least -1", "-2"]),
    ({"right_window_size": -2}, ["right_window_size", "at least -1", "-2"]),
]

TYPES: list[tuple[Arguments, list[str]]] = [
    ({"Q": ones(2, 6, 4, 7, dtype=int)}, ["Q", "float16 or bfloat16 or float32", "int64"]),
    ({"K": ones(2, 3, 5, 7, dtype=float)}, ["K", "float32", "float64"]),
    ({"V": ones(2, 3, 5, 8, dtype=bool)}, ["V", "float32", "bool"]),
    ({"Q": [[1.0]]}, ["Q", "list"]),
    (past(past_key=ones(2, 3, 3, 7, dtype=float)), ["past_key", "float32", "float64"]),
    (past(past_value=ones(2, 3, 3, 8, dtype=float)), ["past_value", "float32", "float64"]),
    ({"nonpad_kv_seqlen": np.array([4.0, 5.0])}, ["nonpad_kv_seqlen", "float64", "integers"]),
    ({"attn_mask": ones(4, 5, dtype=complex)}, ["attn_mask", "bool, float", "complex128"]),
    ({"left_window_size": 1.5}, ["left_window_size", "integer", "1.5"]),
    (flat(2.5, 3), ["q_num_heads", "integer", "2.5"]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    ("error", "bad", "parts"),
    [(ValueError, *row) for row in VALUES] + [(TypeError, *row) for row in TYPES],
)
def test_message(error: type[Exception], bad: Arguments, parts: list[str]) -> None:
    with pytest.raises(error) as info:
        attention(**(good() | bad))
    assert type(info.value) is error
    for part in parts:
        assert part in str(info.value)


def test_good_arguments_are_good() -> None:
    assert attention(**good()).Y.shape == (2, 6, 4, 8)
    assert attention(**good(), q_num_heads=6, kv_num_heads=3).Y.shape == (2, 6, 4, 8)
    assert attention(**flat()).Y.shape == (2, 4, 48)
    assert attention(**good(), **past()).present_value.shape == (2, 3, 8, 8)
    assert attention(**good(), **LENGTHS).Y.shape == (2, 6, 4, 8)


def rotate(x: Array, table: tuple[int, ...], **attributes: Any) -> Array:
    """Run a model of one node RotaryEmbedding, with this shape of cos and sin."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    from cpuattn.integrations.onnx_ops import RotaryEmbedding

    arrays = {"X": x, "cos": np.full(table, 0.6, x.dtype), "sin": np.full(table, 0.8, x.dtype)}
    node = helper.make_node("RotaryEmbedding", list(arrays), ["Y"], **attributes)
    element = helper.np_dtype_to_tensor_dtype(x.dtype)
    values = [helper.make_tensor_value_info(n, element, a.shape) for n, a in arrays.items()]
    out = helper.make_tensor_value_info("Y", element, None)
    graph = helper.make_graph([node], "rotary", values, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    outputs: Any = ReferenceEvaluator(model, new_ops=[RotaryEmbedding]).run(None, arrays)
    result: Array = outputs[0]
    return result


def test_errors_of_rotary_embedding() -> None:
    with pytest.raises(ValueError, match="num_heads must be given for the 3-D X"):
        rotate(ones(1, 3, 8), (1, 3, 2))
    with pytest.raises(ValueError, match=r"X, shape \(1, 3, 8\), must be a multiple of num_heads"):
        rotate(ones(1, 3, 8), (1, 3, 2), num_heads=3)
    with pytest.raises(ValueError, match="cos_cache has 2 angles; it must have half of the 8"):
        rotate(ones(1, 2, 3, 8), (1, 3, 2))
    with pytest.raises(ValueError, match=r"X has shape \(3, 8\)"):
        rotate(ones(3, 8), (1, 3, 4))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_rotary_embedding_rounds_once(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    dtype = np.dtype(np.float16 if name == "float16" else ml_dtypes.bfloat16)
    x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(1, 3, 8).astype(dtype)
    found = rotate(x, (1, 3, 2), num_heads=2)
    assert found.dtype == dtype
    a, b = (x.astype(float).reshape(1, 3, 2, 2, 2)[..., n, :] for n in range(2))
    c, s = (np.float64(dtype.type(angle)) for angle in (0.6, 0.8))
    exact = np.stack([a * c - b * s, a * s + b * c], axis=-2).reshape(1, 3, 8)
    np.testing.assert_array_equal(found, exact.astype(np.float32).astype(dtype))


def test_the_function_needs_no_onnx() -> None:
    program = """
import sys
sys.modules["onnx"] = sys.modules["ml_dtypes"] = None
import numpy as np
from cpuattn.integrations.onnx import attention
x = np.ones((1, 1, 2, 4), np.float32)
print(attention(x, x, x).Y.sum())
import cpuattn.integrations.onnx_ops
"""
    done = start_python("-c", program)
    assert done.stdout == "8.0\n", done.stderr
    assert done.returncode == 1
    message = 'ImportError: cpuattn.integrations.onnx_ops needs onnx: pip install ".[onnx]"'
    assert done.stderr.splitlines()[-1] == message


def test_the_package_does_not_import_it() -> None:
    program = "import sys, cpuattn; print([n for n in sys.modules if 'onnx' in n])"
    done = start_python("-c", program)
    assert done.stdout == "[]\n", done.stderr
