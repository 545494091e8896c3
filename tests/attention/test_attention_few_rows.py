"""Few query rows over many keys: the kernel that splits the keys and merges."""

import numpy as np
import pytest

import cpuattn
from cases import Shape, make_case
from oracle import Dtype

pytestmark = pytest.mark.usefixtures("isa")

# (queries, group): every number of rows from 1 to 9 that share each read of a key.
ROWS = ((1, 1), (2, 1), (1, 3), (2, 2), (5, 1), (3, 2), (1, 7), (2, 4), (3, 3))
KEYS = (1, 2, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025)


def shape_of(rows: tuple[int, int], keys: int, head_dim: int, batch: int = 2) -> Shape:
    queries, group = rows
    return Shape(queries, keys, head_dim, heads=2 * group, kv_heads=2, batch=batch)


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows_and_keys(rows: tuple[int, int], keys: int, dtype: Dtype) -> None:
    make_case(shape_of(rows, keys, head_dim=24), dtype).check()


@pytest.mark.parametrize("keys", [4096, 20000])
@pytest.mark.parametrize("rows", [(1, 1), (1, 4), (4, 2)], ids=str)
def test_split_keys(rows: tuple[int, int], keys: int, dtype: Dtype) -> None:
    make_case(shape_of(rows, keys, head_dim=16, batch=1), dtype).check()


@pytest.mark.parametrize("head_dim", [*range(1, 21), 32, 40, 64, 80, 96, 128, 256])
def test_every_head_dim(head_dim: int, dtype: Dtype) -> None:
    make_case(shape_of((1, 1), 130, head_dim), dtype).check()
    make_case(shape_of((1, 4), 67, head_dim), dtype).check()


@pytest.mark.parametrize(
    ("head_dim", "value_dim"), [(1, 8), (8, 1), (17, 3), (15, 40), (64, 80), (576, 512)]
)
def test_value_dim_differs(head_dim: int, value_dim: int, dtype: Dtype) -> None:
    make_case(Shape(1, 100, head_dim, value_dim, heads=4, kv_heads=1), dtype).check()


@pytest.mark.parametrize("options", [("causal", "offset"), ("window",), ("lengths",)], ids=str)
def test_visible_range_ends_anywhere(options: tuple[str, ...], dtype: Dtype) -> None:
    for keys in (600, 1025):
        make_case(shape_of((3, 2), keys, head_dim=8), dtype, options).check()


def test_the_plan_says_which_kernel() -> None:
    rng = np.random.default_rng(0)
    one = Shape(1, 20000, head_dim=64, batch=1).arrays(rng, np.float32)
    many = Shape(64, 640, head_dim=64, batch=1).arrays(rng, np.float32)
    assert cpuattn.explain(*one)["kernel"] == "decode"
    assert cpuattn.explain(*one)["num_chunks"] > 1
    assert cpuattn.explain(*many)["kernel"] == "forward"
