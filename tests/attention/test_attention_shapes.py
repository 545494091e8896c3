"""Sizes around every boundary of the blocked kernels, for many query rows."""

import itertools

import numpy as np
import pytest

import cpuattn
from cases import Shape, make_case
from oracle import Dtype

# Lanes 4, 8, 16; register tiles 6, 8, 12; query blocks 16 to 64; key blocks 96, 128.
BOUNDARIES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
AROUND = sorted({n + delta for n in BOUNDARIES for delta in (-1, 0, 1)})
HEAD_DIMS = (*range(1, 21), 32, 40, 64, 80, 96, 128, 256)

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("queries", AROUND)
def test_queries_around_boundaries(queries: int, dtype: Dtype) -> None:
    make_case(Shape(queries, keys=50), dtype).check()


@pytest.mark.parametrize("keys", [1, 2, *AROUND])
def test_keys_around_boundaries(keys: int, dtype: Dtype) -> None:
    make_case(Shape(queries=20, keys=keys), dtype).check()


@pytest.mark.parametrize("options", [(), ("causal",), ("mask", "window")], ids=str)
def test_around_the_real_blocks(options: tuple[str, ...], dtype: Dtype) -> None:
    arrays = Shape(queries=100, keys=300).arrays(np.random.default_rng(0), dtype)
    plan = cpuattn.explain(*arrays)
    assert plan["kernel"] == "forward"
    deltas = (-1, 0, 1)
    for i, j in itertools.product(deltas, deltas):
        shape = Shape(plan["query_block"] + i, 2 * plan["key_block"] + j, head_dim=5)
        make_case(shape, dtype, options).check()
        shape = Shape(2 * plan["query_block"] + i, plan["key_block"] + j, head_dim=5)
        make_case(shape, dtype, options).check()


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_head_dim(head_dim: int, dtype: Dtype) -> None:
    make_case(Shape(queries=19, keys=37, head_dim=head_dim), dtype).check()
    make_case(Shape(queries=66, keys=7, head_dim=head_dim, batch=1), dtype, ("causal",)).check()


@pytest.mark.parametrize(
    ("head_dim", "value_dim"),
    [(1, 8), (8, 1), (3, 17), (17, 3), (15, 40), (64, 80), (128, 64), (192, 128), (576, 512)],
)
def test_value_dim_differs(head_dim: int, value_dim: int, dtype: Dtype) -> None:
    shape = Shape(queries=21, keys=50, head_dim=head_dim, value_dim=value_dim)
    make_case(shape, dtype).check()
    make_case(shape, dtype, ("lengths", "alibi")).check()


@pytest.mark.parametrize("keys", [640, 1500, 4097])
def test_many_keys(keys: int, dtype: Dtype) -> None:
    shape = Shape(queries=24, keys=keys, head_dim=16, heads=1, kv_heads=1, batch=1)
    make_case(shape, dtype).check()


def test_real_models(dtype: Dtype) -> None:
    # Whisper's encoder is longer; ViT-S/14, the OCR head (D = 15) and MiniLM are as they are.
    for queries, heads, head_dim in ((257, 6, 64), (79, 8, 15), (110, 8, 15), (128, 12, 32)):
        shape = Shape(queries, queries, head_dim, heads=heads, kv_heads=heads, batch=1)
        make_case(shape, dtype).check()
