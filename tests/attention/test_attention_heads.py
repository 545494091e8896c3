"""Grouped heads, ranks 2 to 6, and leading dimensions that broadcast."""

import numpy as np
import pytest

import cpuattn
from cases import Shape, case_of, make_case
from oracle import Dtype

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("queries", [1, 3, 33])
@pytest.mark.parametrize(
    ("heads", "kv_heads"), [(4, 2), (8, 1), (9, 3), (12, 4), (5, 1), (32, 8), (71, 1)]
)
def test_grouped_heads(heads: int, kv_heads: int, queries: int, dtype: Dtype) -> None:
    shape = Shape(queries, 45, head_dim=12, heads=heads, kv_heads=kv_heads, batch=2)
    make_case(shape, dtype).check()
    make_case(shape, dtype, ("bias", "lengths", "alibi", "sinks")).check()


def test_query_head_reads_its_own_group() -> None:
    # Every key head holds one constant value: the output shows which head was read.
    query = np.ones((2, 6, 20, 4), np.float32)
    key = np.ones((2, 3, 5, 4), np.float32)
    value = np.broadcast_to(np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1), key.shape)
    out = cpuattn.attention(query, key, value)
    expected = [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]]
    np.testing.assert_array_equal(out[..., 7, 2], expected)


@pytest.mark.parametrize(
    "lead", [(), (4,), (2, 4), (3, 2, 4), (2, 1, 3, 4), (1, 2, 1, 2, 4)], ids=str
)
@pytest.mark.parametrize("queries", [2, 18])
def test_ranks(lead: tuple[int, ...], queries: int, dtype: Dtype) -> None:
    rng = np.random.default_rng(7)
    sizes = ((*lead, queries, 6), (*lead, 23, 6), (*lead, 23, 3))
    query, key, value = (rng.standard_normal(size).astype(dtype) for size in sizes)
    case_of((query, key, value)).check()
    case_of((query, key, value), causal=True, window=(4, None)).check()


@pytest.mark.parametrize(
    ("query_lead", "key_lead", "value_lead"),
    [
        ((2, 4), (2,), (2,)),
        ((3, 4), (1, 2), (3, 2)),
        ((1, 4), (3, 2), (1, 2)),
        ((4,), (3, 2), (3, 2)),
        ((), (3, 1), (3, 1)),
        ((2, 1, 4), (3, 2), (2, 3, 2)),
        ((2, 1, 1, 4), (1, 3, 1, 4), (1, 1, 2, 4)),
        ((3, 4), (3, 1), (1, 1)),
    ],
)
@pytest.mark.parametrize("queries", [1, 20])
def test_leading_dimensions_broadcast(
    query_lead: tuple[int, ...],
    key_lead: tuple[int, ...],
    value_lead: tuple[int, ...],
    queries: int,
) -> None:
    rng = np.random.default_rng(8)
    sizes = ((*query_lead, queries, 8), (*key_lead, 31, 8), (*value_lead, 31, 5))
    query, key, value = (rng.standard_normal(size).astype(np.float32) for size in sizes)
    case_of((query, key, value)).check()
    assert cpuattn.explain(query, key, value)["copies"] == []


def test_options_broadcast_over_leading_dimensions(dtype: Dtype) -> None:
    rng = np.random.default_rng(9)
    query = rng.standard_normal((3, 4, 19, 8)).astype(dtype)
    key, value = (rng.standard_normal((3, 2, 29, 8)).astype(dtype) for _ in range(2))
    for size in ((29,), (19, 1), (1, 29), (4, 1, 29), (3, 1, 1, 29), (1, 4, 19, 1), (3, 4, 19, 29)):
        case_of((query, key, value), mask=rng.random(size) < 0.6).check()
        case_of((query, key, value), bias=rng.standard_normal(size)).check()
    slopes = rng.random((3, 4))
    case_of((query, key, value), alibi_slopes=slopes, query_offset=[0, 3, -4]).check()


@pytest.mark.parametrize("queries", [1, 20])
def test_options_of_the_batch_broadcast_too(queries: int) -> None:
    """With more than one leading dimension, "B" is all of them."""
    rng = np.random.default_rng(10)
    query, key, value = (
        rng.standard_normal((2, 3, 2, n, 4)).astype(np.float32) for n in (queries, 70, 70)
    )
    for lead in ((), (1,), (3,), (2, 1), (2, 3)):
        lengths, offsets = rng.integers(0, 70, lead), rng.integers(-5, 70, lead)
        case_of((query, key, value), key_lengths=lengths, causal=True).check()
        case_of((query, key, value), query_offset=offsets, window=9).check()
        ids = {
            "query_segments": rng.integers(0, 2, (*lead, queries)),
            "key_segments": rng.integers(0, 2, (*lead, 70)),
        }
        case_of((query, key, value), **ids).check()
        case_of((query, key, value), alibi_slopes=rng.random((*lead, 2))).check()
