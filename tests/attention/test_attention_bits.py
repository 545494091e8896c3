"""Bit for bit: threads, batch, heads, other rows and repetition do not change a row."""

from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import Case, Shape, make_case
from oracle import Array, Dtype

pytestmark = pytest.mark.usefixtures("isa")

# Many rows; few rows over split keys; few rows and few keys; grouped heads.
SHAPES = (
    Shape(queries=150, keys=330, head_dim=20, heads=4, batch=3),
    Shape(queries=1, keys=3000, head_dim=20, heads=4, batch=3),
    Shape(queries=5, keys=40, head_dim=20, heads=2, batch=3),
    Shape(queries=50, keys=210, head_dim=7, value_dim=12, heads=12, kv_heads=3, batch=3),
)
OPTIONS = ((), ("causal", "lengths"), ("mask", "bias", "sinks", "alibi"), ("segments", "window"))


@pytest.fixture(params=SHAPES, ids=lambda s: f"{s.queries}x{s.keys}")
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=OPTIONS, ids="+".join)
def case(request: pytest.FixtureRequest, shape: Shape, dtype: Dtype) -> Case:
    return make_case(shape, dtype, request.param)


def run(case: Case, **arguments: Any) -> tuple[Array, Array]:
    out, lse = cpuattn.attention(*case.arrays, **(case.options | arguments), return_lse=True)
    return out, lse


def assert_same_bits(actual: tuple[Array, Array], expected: tuple[Array, Array]) -> None:
    for one, other in zip(actual, expected, strict=True):
        unsigned = f"u{one.itemsize}"
        np.testing.assert_array_equal(
            np.ascontiguousarray(one).view(unsigned), np.ascontiguousarray(other).view(unsigned)
        )


@pytest.mark.parametrize("num_threads", [2, 3, 7])
def test_threads(case: Case, num_threads: int) -> None:
    assert_same_bits(run(case, num_threads=num_threads), run(case, num_threads=1))


def test_two_runs(case: Case) -> None:
    assert_same_bits(run(case), run(case))


def in_batch(options: dict[str, Any], b: int) -> dict[str, Any]:
    """The options of batch entry b, from those that have a batch dimension."""
    batched = ("mask", "query_offset", "key_lengths", "query_segments", "key_segments")
    return {k: np.asarray(v)[b : b + 1] if k in batched else v for k, v in options.items()}


def test_batch_around(case: Case) -> None:
    out, lse = run(case)
    for b in range(out.shape[0]):
        arrays = [x[b : b + 1] for x in case.arrays]
        alone = cpuattn.attention(*arrays, **in_batch(case.options, b), return_lse=True)
        assert_same_bits(alone, (out[b : b + 1], lse[b : b + 1]))


def test_heads_around(case: Case) -> None:
    """One key/value head with its group of query heads gives what it gives among all."""
    out, lse = run(case)
    query, key, value = case.arrays
    group = query.shape[1] // key.shape[1]
    for h in range(key.shape[1]):
        heads = slice(h * group, (h + 1) * group)
        options = case.options.copy()
        for name, axis in (("mask", 1), ("bias", 0), ("sinks", 0), ("alibi_slopes", 0)):
            if name in options:
                options[name] = np.take(options[name], range(query.shape[1])[heads], axis=axis)
        alone = cpuattn.attention(
            query[:, heads], key[:, h : h + 1], value[:, h : h + 1], **options, return_lse=True
        )
        assert_same_bits(alone, (out[:, heads], lse[:, heads]))


def test_rows_around() -> None:
    """Within the kernel for many rows, a row has the same bits whatever rows come with it."""
    case = make_case(Shape(queries=300, keys=500, head_dim=20), np.float32, ())
    query, key, value = case.arrays
    out, lse = run(case)
    for rows in (slice(0, 100), slice(37, 137), slice(150, 300), slice(3, 290, 3)):
        part = query[..., rows, :]
        assert cpuattn.explain(part, key, value)["kernel"] == "forward"
        alone = cpuattn.attention(part, key, value, return_lse=True)
        assert_same_bits(alone, (out[..., rows, :], lse[..., rows]))


def test_causal_rows_around() -> None:
    """The same where other rows of the block see keys that this row does not."""
    case = make_case(Shape(queries=300, keys=300, head_dim=20), np.float32, ("causal",))
    query, key, value = case.arrays
    out, lse = run(case)
    for begin, end in ((0, 100), (37, 137), (150, 300)):
        part = query[..., begin:end, :]
        alone = cpuattn.attention(
            part, key, value, causal=True, query_offset=begin, return_lse=True
        )
        assert_same_bits(alone, (out[..., begin:end, :], lse[..., begin:end]))


def test_few_rows_around() -> None:
    """Within the kernel for few rows likewise."""
    case = make_case(Shape(queries=4, keys=2000, head_dim=20), np.float32, ())
    query, key, value = case.arrays
    out, lse = run(case)
    kernel = cpuattn.explain(query, key, value)["kernel"]
    for i in range(4):
        part = query[..., i : i + 1, :]
        assert cpuattn.explain(part, key, value)["kernel"] == kernel
        alone = cpuattn.attention(part, key, value, return_lse=True)
        assert_same_bits(alone, (out[..., i : i + 1, :], lse[..., i : i + 1]))


def test_masked_keys_leave_no_trace() -> None:
    """Finite garbage in keys and values that a row cannot see does not change one bit."""
    case = make_case(Shape(queries=90, keys=200, head_dim=20), np.float32, ("lengths", "causal"))
    query, key, value = case.arrays
    key, value = key.copy(), value.copy()
    lengths = case.options["key_lengths"]
    for b, length in enumerate(lengths):
        key[b, :, length:] = 1e30
        value[b, :, length:] = -1e30
    poisoned = cpuattn.attention(query, key, value, **case.options, return_lse=True)
    assert_same_bits(poisoned, run(case))
