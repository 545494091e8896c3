"""Sizes and strides beyond 32 bits, without the memory: broadcast views and sparse files."""

import os
import tempfile
from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import Shape, case_of
from oracle import Array

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("keys", [65535, 65536, 65537])
@pytest.mark.parametrize("queries", [1, 12])
def test_keys_around_16_bits(keys: int, queries: int) -> None:
    shape = Shape(queries, keys, head_dim=4, heads=1, kv_heads=1, batch=1)
    case_of(shape.arrays(np.random.default_rng(0), np.float32), causal=True).check()


@pytest.mark.parametrize("queries", [65535, 65536, 65537])
def test_queries_around_16_bits(queries: int) -> None:
    shape = Shape(queries, 10, head_dim=4, heads=1, kv_heads=1, batch=1)
    arrays = shape.arrays(np.random.default_rng(0), np.float32)
    case_of(arrays).check()
    case_of(arrays, causal=True, query_offset=-65500).check()


@pytest.mark.parametrize("queries", [1, 12])
def test_batch_and_heads_around_16_bits(queries: int) -> None:
    query = np.random.default_rng(1).standard_normal((65537, queries, 1)).astype(np.float32)
    key = np.array([[[0.5], [-1.0]]], np.float32)
    value = np.array([[[1.0], [2.0]]], np.float32)
    case_of((query, key, value)).check()
    case_of((query[:, None], key[None], value[None])).check()


@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize("keys", [2**28 + 1, 2**31 + 1])
def test_windows_at_the_end_of_very_many_keys(keys: int, queries: int) -> None:
    """2^32 elements and more, all keys equal: the lse counts the visible ones."""
    head_dim = 16
    row = np.random.default_rng(2).standard_normal((1, head_dim)).astype(np.float32)
    key = np.broadcast_to(row, (keys, head_dim))
    value = np.broadcast_to(np.arange(5, dtype=np.float32), (keys, 5))
    query = np.zeros((queries, head_dim), np.float32)
    bias = np.broadcast_to(np.float32(0.25), (queries, keys))
    mask = np.broadcast_to(np.True_, (queries, keys))
    for options in ({}, {"mask": mask}, {"bias": bias}, {"key_lengths": keys}):
        out, lse = cpuattn.attention(
            query, key, value, window=(99, 0), causal=True, return_lse=True, **options
        )
        np.testing.assert_allclose(out, np.broadcast_to(value[0], out.shape), rtol=1e-6)
        shift = 0.25 if "bias" in options else 0
        np.testing.assert_allclose(lse, np.full(queries, np.log(100) + shift), rtol=1e-6)


def test_plan_of_very_many_keys_needs_little_memory() -> None:
    key = np.broadcast_to(np.float32(0), (2**33, 64))
    query = np.zeros((1, 64), np.float32)
    for options in ({"window": (99, 0)}, {"key_lengths": 3}, {"causal": True}):
        plan = cpuattn.explain(query, key, key, **options)
        assert plan["scratch_bytes"] <= plan["threads"] * 2**21


@pytest.mark.parametrize("queries", [3, 40])
def test_batch_of_more_than_32_bits_of_keys(queries: int) -> None:
    """4096 x 4097 x 128 elements of key: only the lengths keep this small."""
    rng = np.random.default_rng(3)
    key = np.broadcast_to(rng.standard_normal(128).astype(np.float32), (4096, 1, 4097, 128))
    query = np.broadcast_to(rng.standard_normal(128).astype(np.float32), (4096, 1, queries, 128))
    value = np.broadcast_to(np.float32(3), (4096, 1, 4097, 1))
    lengths = np.arange(4096) % 5
    out, lse = cpuattn.attention(query, key, value, key_lengths=lengths, return_lse=True)
    np.testing.assert_array_equal(out[:, 0, -1, 0] == 0, lengths == 0)
    np.testing.assert_allclose(out[lengths > 0], 3, rtol=1e-6)
    score = np.dot(query[0, 0, 0].astype(np.float64), key[0, 0, 0]) / np.sqrt(128)
    seen = lengths > 0
    np.testing.assert_allclose(lse[seen, 0, 0], score + np.log(lengths[seen]), rtol=1e-5)


def spread(x: Array, axis: int) -> Array:
    """x with a stride of this axis such that its last element lies beyond 2^31 elements."""
    stride = -(-(2**31 + 4096) // (x.shape[axis] - 1))
    rest = np.moveaxis(x, axis, 0)
    # A sparse file without a name. On Linux it is in memory: a busy disk may take seconds.
    linux = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("sparse"), "w+b") if linux else tempfile.TemporaryFile() as file:
        memory = np.memmap(file, x.dtype, mode="w+", shape=(x.shape[axis], stride))
    near = np.asarray(memory)[:, : rest[0].size].reshape(rest.shape)
    near[...] = rest
    return np.moveaxis(near, 0, axis)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("which", ["query", "key", "value", "bias", "mask", "out"])
@pytest.mark.parametrize("queries", [2, 20])
def test_strides_beyond_32_bits(which: str, axis: int, queries: int) -> None:
    rng = np.random.default_rng(4)
    shape = Shape(queries, keys=33, head_dim=3, batch=3)
    query, key, value = shape.arrays(rng, np.float32)
    size = (3, 2, queries, 33)
    arrays: dict[str, Any] = {
        "query": query,
        "key": key,
        "value": value,
        "bias": rng.standard_normal(size).astype(np.float32),
        "mask": rng.random(size) < 0.8,
        "out": np.zeros_like(query),
    }
    expected = cpuattn.attention(**arrays).copy()
    far = arrays | {which: spread(arrays[which], axis)}
    assert max(far[which].strides) > far[which].itemsize * 2**31 // (3 * 33)
    far["out"][...] = 0
    np.testing.assert_array_equal(cpuattn.attention(**far), expected)
