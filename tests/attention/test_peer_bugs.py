"""Bugs that other attention libraries had: each is a named case here, with its report."""

import ctypes
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import Shape, case_of, make_case
from oracle import Dtype, assert_accurate, attend, eps

pytestmark = pytest.mark.usefixtures("isa")


def band(queries: int, keys: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    distance = np.arange(queries)[:, None] - np.arange(keys)
    return abs(distance) <= width


def test_first_key_blocks_of_a_row_are_masked(dtype: Dtype) -> None:
    # https://github.com/pytorch/pytorch/issues/127055: exp(-inf - -inf), 640 tokens, window 10
    arrays = Shape(640, 640, head_dim=4, batch=1).arrays(np.random.default_rng(0), dtype)
    mask = band(640, 640, 10)
    by_mask = case_of(arrays, mask=mask)
    by_mask.check()
    case_of(arrays, bias=np.where(mask, 0, -np.inf)).check()
    for options in ({"window": 10}, {"mask": mask, "causal": True}):
        case_of(arrays, **options).check()


@pytest.mark.parametrize("hidden", [(0, 512), (128, 640), (96, 544), (0, 639), (1, 640)], ids=str)
@pytest.mark.parametrize("queries", [1, 30])
def test_leading_trailing_and_middle_blocks_are_masked(
    hidden: tuple[int, int], queries: int, dtype: Dtype
) -> None:
    # https://github.com/pytorch/pytorch/pull/130014
    mask = np.ones(640, bool)
    mask[slice(*hidden)] = False
    arrays = Shape(queries, 640, head_dim=4, batch=1).arrays(np.random.default_rng(1), dtype)
    case_of(arrays, mask=mask).check()


@pytest.mark.parametrize("queries", [1, 8, 40])
def test_nan_input_is_not_turned_into_zeros(queries: int, dtype: Dtype) -> None:
    # https://github.com/pytorch/pytorch/issues/141128: NaN in query, 8 keys
    for which in range(3):
        arrays = Shape(queries, 8).arrays(np.random.default_rng(2), dtype)
        arrays[which][0, 1, 0, 2] = np.nan
        case = case_of(arrays)
        assert np.isnan(case.exact.out).any()
        case.check()


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_fully_masked_rows_are_zeros(kind: str, dtype: Dtype) -> None:
    # https://github.com/pytorch/pytorch/issues/103963, #103749, #156487;
    # https://github.com/robertknight/rten/pull/1321; tracel-ai/cubecl#1070 missed it since the
    # test's own reference was NaN too: so the expected zeros are written here.
    arrays = Shape(20, 30).arrays(np.random.default_rng(3), dtype)
    mask = np.ones((20, 30), bool)
    mask[[3, 4, 19]] = False
    options = {"mask": mask} if kind == "bool" else {"bias": np.where(mask, 0, -np.inf)}
    out, lse = cpuattn.attention(*arrays, return_lse=True, **options)
    assert not np.isnan(out).any()
    assert (out[..., [3, 4, 19], :] == 0).all()
    assert np.isneginf(lse[..., [3, 4, 19]]).all()
    assert np.isfinite(lse[..., [0, 5, 18]]).all()


@pytest.mark.parametrize("queries", [1, 20])
def test_rows_of_the_smallest_number_are_the_average(queries: int, dtype: Dtype) -> None:
    # https://github.com/pytorch/pytorch/issues/110213: finfo.min as a mask for all keys of a row
    value = np.random.default_rng(4).standard_normal((40, 3)).astype(dtype)
    zeros = np.zeros((queries, 2), dtype), np.zeros((40, 2), dtype)
    bias = np.zeros((queries, 40), dtype)
    bias[-1] = np.finfo(dtype).min
    out = cpuattn.attention(*zeros, value, bias=bias)
    np.testing.assert_allclose(out[-1], value.mean(axis=0), rtol=0, atol=20 * eps(dtype))


@pytest.mark.parametrize("empty", ["batch", "heads", "queries", "keys", "head_dim"])
def test_empty_sequences_with_more_threads_than_work(empty: str, dtype: Dtype) -> None:
    # https://github.com/pytorch/pytorch/issues/141219 and #141218: division by zero
    sizes = {"batch": 2, "heads": 2, "queries": 3, "keys": 3, "head_dim": 4} | {empty: 0}
    sizes["kv_heads"] = sizes["heads"]
    case_of(Shape(**sizes).arrays(np.random.default_rng(5), dtype)).check(num_threads=16)


def test_innermost_dimension_is_not_contiguous(dtype: Dtype) -> None:
    # https://github.com/pytorch/pytorch/issues/187503, #187504, #187506
    shape = Shape(40, 70, head_dim=6)
    arrays = shape.arrays(np.random.default_rng(6), dtype)
    expected = cpuattn.attention(*arrays)
    query, key, value = (np.ascontiguousarray(x.swapaxes(-1, -2)) for x in arrays)
    out = cpuattn.attention(*(x.swapaxes(-1, -2) for x in (query, key, value)))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("keys", [32 + 1, 64 + 1, 96 + 1, 128 + 1, 512 + 1])
@pytest.mark.parametrize("queries", [1, 40])
def test_expanded_keys_with_one_key_over_a_block(queries: int, keys: int, dtype: Dtype) -> None:
    # https://github.com/pytorch/pytorch/issues/191937: stride 0 and length % 32 == 1
    query, key, value = Shape(queries, keys, batch=3).arrays(np.random.default_rng(7), dtype)
    mask = np.broadcast_to(np.arange(keys) % 5 != 0, (3, 2, queries, keys))
    key, value = (np.broadcast_to(x[:1, :1], x.shape) for x in (key, value))
    case_of((query, key, value), mask=mask).check()


def test_small_product_writes_inside_its_output_only() -> None:
    # https://github.com/pytorch/pytorch/issues/156022: 1030 queries, 17 keys, 3 heads, D = 8
    shape = Shape(1030, 17, heads=3, kv_heads=3, batch=1)
    arrays = shape.arrays(np.random.default_rng(8), np.float32)
    expected = cpuattn.attention(*arrays)
    memory = np.full(expected.size + 128, 7, np.float32)
    out = memory[64:-64].reshape(expected.shape)
    cpuattn.attention(*arrays, out=out)
    np.testing.assert_array_equal(out, expected)
    assert (memory[:64] == 7).all()
    assert (memory[-64:] == 7).all()


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8, 64])
def test_workspace_fits_whatever_the_threads(num_threads: int, dtype: Dtype) -> None:
    # https://github.com/ikawrakow/ik_llama.cpp/pull/2442: too small for one query
    for keys in (1, 64, 1500):
        shape = Shape(1, keys, head_dim=40, heads=6)
        make_case(shape, dtype).check(num_threads=num_threads)


def test_zero_times_nan_in_the_tail_of_a_cache(dtype: Dtype) -> None:
    # https://github.com/vllm-project/vllm/issues/936; FluxML/NNkernels.jl#16
    for queries, used in ((1, 5), (1, 700), (30, 97)):
        query, key, value = Shape(queries, 1024, batch=1).arrays(np.random.default_rng(9), dtype)
        filled = case_of((query, key[..., :used, :], value[..., :used, :]))
        key[..., used:, :], value[..., used:, :] = np.nan, np.nan
        out = cpuattn.attention(query, key, value, key_lengths=[used])
        assert_accurate(out, filled.exact.out, filled.plain.out)


@pytest.mark.parametrize(("queries", "keys"), [(5, 12), (12, 5), (40, 100), (100, 40)])
def test_causal_alignment_is_what_was_asked(queries: int, keys: int, dtype: Dtype) -> None:
    # https://github.com/microsoft/onnxruntime/issues/29020; openvino#36680, #37017, #37608
    arrays = Shape(queries, keys).arrays(np.random.default_rng(10), dtype)
    distance = np.arange(keys) - np.arange(queries)[:, None]
    for offset, shift in ((0, 0), (None, keys - queries)):
        by_mask = case_of(arrays, mask=distance <= shift)
        out = cpuattn.attention(*arrays, causal=True, query_offset=offset)
        assert_accurate(out, by_mask.exact.out, by_mask.plain.out)


@pytest.mark.parametrize("queries", [1, 40])
def test_softcap_comes_before_the_mask(queries: int, dtype: Dtype) -> None:
    # https://github.com/onnx/onnx/pull/7867; onnxruntime#28379, #28370: a capped -inf is finite
    query, key, value = Shape(queries, 60).arrays(np.random.default_rng(11), dtype)
    mask = np.arange(60) < 50
    value[..., 50:, :] = 1e6
    for options in (
        {"mask": mask},
        {"bias": np.where(mask, 0, -np.inf)},
        {"key_lengths": [50, 50]},
    ):
        out = cpuattn.attention(query, key, value, softcap=2.0, **options)
        assert abs(out).max() < 10
        case_of((query, key, value), softcap=2.0, **options).check()


@pytest.mark.parametrize("queries", [1, 20])
def test_grouped_heads_in_a_batch(queries: int, dtype: Dtype) -> None:
    # https://github.com/microsoft/onnxruntime/issues/20521, #26057
    shape = Shape(queries, 50, heads=12, kv_heads=4, batch=3)
    make_case(shape, dtype, ("lengths", "causal")).check()


def test_every_flag_is_honoured() -> None:
    # https://github.com/openvinotoolkit/openvino/pull/37653: causal=0 was ignored
    arrays = Shape(9, 9).arrays(np.random.default_rng(12), np.float32)
    off, on = (cpuattn.attention(*arrays, causal=flag) for flag in (False, True))
    np.testing.assert_array_equal(off, cpuattn.attention(*arrays))
    assert not np.array_equal(off, on)


@pytest.mark.parametrize("length", [20, 129])
def test_window_is_not_off_by_one(length: int, dtype: Dtype) -> None:
    # https://github.com/openvinotoolkit/openvino/pull/30714
    arrays = Shape(length, length).arrays(np.random.default_rng(13), dtype)
    for width in (0, 1, length - 1, length, length + 1):
        mask = band(length, length, width)
        for window, seen in ((width, mask), ((width, 0), np.tril(mask))):
            by_mask = case_of(arrays, mask=seen)
            out = cpuattn.attention(*arrays, window=window)
            assert_accurate(out, by_mask.exact.out, by_mask.plain.out)


@pytest.mark.parametrize("queries", [1, 20])
def test_scores_of_the_size_that_overflowed(queries: int, dtype: Dtype) -> None:
    # https://github.com/pytorch/pytorch/issues/160841, #121558: inputs of 256 at D = 80; 133120
    value = np.random.default_rng(14).standard_normal((1, 50, 80)).astype(dtype)
    for size in (256.0, 133120.0):
        query, key = np.full((1, queries, 80), size, dtype), np.full((1, 50, 80), size, dtype)
        out, lse = cpuattn.attention(query, key, value, return_lse=True)
        exact = attend(query, key, value)
        np.testing.assert_allclose(out, exact.out, atol=20 * eps(dtype), rtol=0)
        np.testing.assert_allclose(lse, exact.lse, rtol=20 * eps(dtype))


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("score", [-1e30, -3e38])
def test_very_negative_scores_still_sum_to_one(queries: int, score: float) -> None:
    # https://github.com/ggml-org/llama.cpp/pull/12776: maximum that starts at -FLT_MAX / 2
    key, query = np.full((200, 1), score, np.float32), np.ones((queries, 1), np.float32)
    out = cpuattn.attention(query, key, np.ones((200, 3), np.float32))
    np.testing.assert_allclose(out, 1, rtol=1e-6)


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("below", [0.0, 0.3, 1.0, 5.0])
def test_exp_keeps_the_order_of_scores(below: float, queries: int, dtype: Dtype) -> None:
    # https://github.com/pytorch/pytorch/issues/115151, #151441: exp wrong by 20 ULP flips argmax
    keys, step = 500, 16 * eps(dtype) * max(below, 1.0)
    scores = np.r_[0, -below - step * np.arange(1, keys)].astype(dtype)[:, None]
    weights = cpuattn.attention(
        np.ones((queries, 1), dtype), scores, np.eye(keys, dtype=dtype), scale=1.0
    )
    assert (np.diff(weights, axis=-1) < 0).all()


def test_subnormals_survive() -> None:
    # https://moyix.blogspot.com/2022/09/someones-been-messing-with-my-subnormals.html
    def float_environment() -> tuple[int, bytes]:
        state = bytearray(64)
        libm = ctypes.CDLL(None)
        assert libm.fegetenv((ctypes.c_char * 64).from_buffer(state)) == 0
        # glibc on x86-64: MXCSR is the last of fenv_t's 32 bytes; its low six bits are flags.
        mxcsr = int.from_bytes(state[28:32], "little") & ~0x3F
        return libm.fegetround(), mxcsr.to_bytes(4, "little")

    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    before = float_environment() if linux else None
    for shape in (Shape(70, 200), Shape(1, 5000)):
        make_case(shape, np.float32, ("softcap",)).check()
    assert before == (float_environment() if linux else None)
    for kind in (np.float32, np.float64):
        tiny = np.finfo(kind).tiny
        assert tiny * kind(0.5) > 0
        assert np.finfo(kind).smallest_subnormal > 0


@pytest.mark.parametrize("first", ["torch", "cpuattn"])
def test_import_order_with_torch(first: str) -> None:
    # https://github.com/pytorch/pytorch/issues/132372, #44282; mapequation/infomap#588
    pytest.importorskip("torch", reason="torch is not installed: nothing to import before or after")
    second = {"torch": "cpuattn", "cpuattn": "torch"}[first]
    script = f"""
import {first}, {second}, numpy as np
x = np.ones((1, 2, 300, 8), np.float32)
ours = cpuattn.attention(x, x, x, num_threads=2)
t = torch.from_numpy(x)
theirs = torch.nn.functional.scaled_dot_product_attention(t, t, t)
np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)
