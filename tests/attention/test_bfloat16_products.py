"""The forward kernel that multiplies bfloat16 numbers as they are: AVX512_BF16.

Its weights are rounded to bfloat16, so its bits are not those of float32. All that the other
kernels promise holds for it too.
"""

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cpuattn
from cases import OPTIONS, Shape, make_case
from oracle import Array, assert_accurate, attend

pytestmark = pytest.mark.usefixtures("bfloat16_isa")

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DIGIT = 2.0**-8  # the distance from 1 to the next bfloat16 is twice that: half of it is rounding

# Around the blocks of 96 keys and 16, 32 and 64 rows, whole vectors of dims and not, odd ones, more
# than the 128 of a slice.
SHAPES = (
    Shape(queries=70, keys=210, head_dim=64, heads=4),
    Shape(queries=9, keys=96, head_dim=32, value_dim=16),
    Shape(queries=16, keys=97, head_dim=15, value_dim=40, heads=4),
    Shape(queries=17, keys=95, head_dim=33, value_dim=17),
    Shape(queries=64, keys=193, head_dim=130, value_dim=9, kv_heads=1),
    Shape(queries=65, keys=1, head_dim=1, value_dim=1),
    Shape(queries=31, keys=1400, head_dim=257, value_dim=200, heads=1, kv_heads=1, batch=1),
)


def narrow(x: Array) -> Array:
    return x.astype(BFLOAT16)


def wide(x: Array) -> Array:
    return x.astype(np.float32)


def same_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual.astype(np.float64), expected.astype(np.float64))


def bfloat16_arrays(shape: Shape) -> list[Array]:
    return [narrow(x) for x in make_case(shape).arrays]


def rounded_attention(arrays: list[Array], options: dict[str, Any]) -> Array:
    """Attend in float32 NumPy with weights rounded to bfloat16, as is the result."""
    query, key, value = arrays
    plain = attend(query, key, value, dtype=np.float32, **options)
    largest = plain.weights.max(axis=-1, keepdims=True, initial=0)
    scale = np.where(largest > 0, largest, 1)
    weights = wide(narrow(plain.weights / scale)) * scale
    group = query.shape[-3] // key.shape[-3]
    value = np.repeat(value, group, axis=-3)
    return wide(narrow(weights @ value))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.queries}x{s.keys}x{s.head_dim}")
@pytest.mark.parametrize(
    "names", [(), *((name,) for name in OPTIONS), tuple(OPTIONS)], ids="+".join
)
def test_every_option(shape: Shape, names: tuple[str, ...]) -> None:
    """Twice the error of NumPy with rounded weights at most; the log-sum-exp is that of float32."""
    options = make_case(shape, np.float32, names).options
    arrays = bfloat16_arrays(shape)
    assert cpuattn.explain(*arrays, **options)["products"] == "bfloat16"
    got, lse = cpuattn.attention(*arrays, **options, return_lse=True)
    assert got.dtype == BFLOAT16
    numbers = [wide(x) for x in arrays]
    exact = attend(*numbers, dtype=np.float64, **options)
    assert_accurate(wide(got), exact.out, rounded_attention(numbers, options), DIGIT)
    assert_accurate(lse, exact.lse, attend(*numbers, dtype=np.float32, **options).lse)


@pytest.mark.parametrize("causal", [False, True])
def test_error_on_normal_inputs(*, causal: bool) -> None:
    """The bound and the input of the test of the same name in test_dtypes.py."""
    rng = np.random.default_rng(3)
    query, key, value = rng.standard_normal((3, 4, 300, 64)).astype(BFLOAT16)
    exact = cpuattn.reference.attention_numpy(
        *(x.astype(np.float64) for x in (query, key, value)), causal=causal
    )
    got = cpuattn.attention(query, key, value, causal=causal).astype(np.float64)
    assert np.linalg.norm(got - exact) < 2.2e-3 * np.linalg.norm(exact)


def test_error_is_at_most_that_of_torch() -> None:
    """Of torch 2.13 on this input: 2.28e-3, of which rounding the result alone is 1.66e-3."""
    rng = np.random.default_rng(3)
    arrays = [narrow(rng.standard_normal((8, 2048, 64), dtype=np.float32)) for _ in range(3)]
    exact = cpuattn.reference.attention_numpy(*(x.astype(np.float64) for x in arrays))
    got = cpuattn.attention(*arrays).astype(np.float64)
    assert np.linalg.norm(got - exact) < 2.28e-3 * np.linalg.norm(exact)


def test_one_key_is_exact() -> None:
    """Its weight is 1, so that the output is its value, whatever the score."""
    query, key, value = bfloat16_arrays(Shape(queries=40, keys=1, head_dim=24, heads=4))
    out = cpuattn.attention(query, 30 * key, value)
    same_bits(out, np.broadcast_to(np.repeat(value, 2, axis=1), out.shape))


def test_equal_scores_give_the_average() -> None:
    query = np.zeros((1, 50, 8), BFLOAT16)
    value = narrow(np.arange(1, 201).reshape(1, 200, 1) % 5)
    same_bits(
        cpuattn.attention(query, np.zeros((1, 200, 8), BFLOAT16), value), value[:, :50] * 0 + 2
    )


@pytest.mark.parametrize("names", [(), ("causal",), ("window", "offset"), ("mask", "softcap")])
def test_bits_depend_on_nothing_else(names: tuple[str, ...]) -> None:
    """Not on threads, the batch, strides, or which other rows are in a call."""
    shape = Shape(queries=140, keys=301, head_dim=33, value_dim=20, heads=4)
    options = make_case(shape, np.float32, names).options
    query, key, value = bfloat16_arrays(shape)
    expected = cpuattn.attention(query, key, value, **options)
    for threads in (1, 2, 5):
        same_bits(cpuattn.attention(query, key, value, **options, num_threads=threads), expected)
    strided = [
        np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2) for x in (query, key, value)
    ]
    same_bits(cpuattn.attention(*strided, **options), expected)
    views = [np.repeat(x, 2, axis=-1)[..., ::2] for x in (query, key, value)]
    same_bits(cpuattn.attention(*views, **options), expected)
    if not names:
        same_bits(cpuattn.attention(query[1:], key[1:], value[1:]), expected[1:])
    if "mask" not in names:
        offset = np.broadcast_to(options.pop("query_offset", 301 - 140), 2)
        rows = cpuattn.attention(
            query[:, :, 37:], key, value, **options, query_offset=(offset + 37).tolist()
        )
        same_bits(rows, expected[:, :, 37:])


@pytest.mark.parametrize("length", [1, 2, 95, 96, 97, 98, 193])
def test_padding_changes_no_bit(length: int) -> None:
    """Whether the last key has a neighbour to be paired with or not."""
    query, key, value = bfloat16_arrays(Shape(queries=20, keys=200, head_dim=16))
    expected = cpuattn.attention(query, key[:, :, :length], value[:, :, :length])
    same_bits(cpuattn.attention(query, key, value, key_lengths=length), expected)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("shape", SHAPES[:5], ids=lambda s: f"{s.queries}x{s.keys}x{s.head_dim}")
def test_poison(shape: Shape, poison: float) -> None:
    """What is hidden never leaks, whichever half of a pair it is; what is seen always shows."""
    query, key, value = bfloat16_arrays(shape)
    rng = np.random.default_rng(0)
    hidden = rng.random(shape.keys) < 0.5
    hidden[:2], hidden[-2:] = (False, True), (True, False)
    mask = np.broadcast_to(~hidden, (shape.queries, shape.keys)).copy()
    expected = cpuattn.attention(query, key, value, mask=mask)
    dirty_key, dirty_value = key.copy(), value.copy()
    dirty_key[:, :, hidden] = dirty_value[:, :, hidden] = poison
    same_bits(cpuattn.attention(query, dirty_key, dirty_value, mask=mask), expected)
    mask[-1, np.flatnonzero(hidden)[0]] = True  # one row sees one of them
    seen = cpuattn.attention(query, key, dirty_value, mask=mask)
    same_bits(seen[:, :, :-1], expected[:, :, :-1])
    assert not np.isfinite(wide(seen[:, :, -1])).any()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poison_in_padding(poison: float) -> None:
    query, key, value = bfloat16_arrays(Shape(queries=30, keys=150, head_dim=16))
    lengths = [101, 0]
    expected = cpuattn.attention(query, key, value, key_lengths=lengths)
    assert not wide(expected[1]).any()
    key[0, :, 101:], value[0, :, 101:], key[1], value[1] = poison, poison, poison, poison
    same_bits(cpuattn.attention(query, key, value, key_lengths=lengths), expected)


def test_pages_give_the_bits_of_rows() -> None:
    query, key, value = bfloat16_arrays(Shape(queries=40, keys=300, head_dim=32, heads=4, batch=1))
    for size in (1, 7, 16, 64):
        count = -(-300 // size)
        order = np.random.default_rng(size).permutation(count)
        pages = []
        for rows in (key, value):
            padded = np.zeros((count * size, *rows.shape[1:2], 32), BFLOAT16)
            padded[:300] = rows[0].swapaxes(0, 1)
            page = np.empty((count, 2, size, 32), BFLOAT16)
            page[order] = padded.reshape(count, size, 2, 32).swapaxes(1, 2)
            pages.append(page)
        got = cpuattn.attention(
            query, *pages, block_table=order[None], key_lengths=[300], causal=True
        )
        same_bits(got, cpuattn.attention(query, key, value, causal=True))


def test_packed_sequences_give_the_bits_of_a_loop() -> None:
    lengths = [5, 33, 0, 64, 1, 97]
    ends = np.cumsum([0, *lengths])
    rng = np.random.default_rng(0)
    query, key, value = (narrow(rng.standard_normal((ends[-1], 4, 24))) for _ in range(3))
    got = cpuattn.attention_varlen(query, key, value, ends, ends, causal=True)
    plans = cpuattn.explain_varlen(query, key, value, ends, ends)
    assert [(plan["kernel"], plan["products"]) for plan in plans] == [
        ("decode", "bfloat16"),
        ("forward", "bfloat16"),
    ]
    for begin, end in itertools.pairwise(ends):
        parts = [x[begin:end].swapaxes(0, 1) for x in (query, key, value)]
        same_bits(got[begin:end].swapaxes(0, 1), cpuattn.attention(*parts, causal=True))


def test_wider_results_are_computed_in_float32() -> None:
    query, key, value = bfloat16_arrays(SHAPES[0])
    numbers = [wide(x) for x in (query, key, value)]
    exact = cpuattn.attention(*numbers)
    out = np.empty_like(exact)
    assert cpuattn.explain(query, key, value)["products"] == "bfloat16"
    assert cpuattn.explain(query, key, value, out=out)["products"] == "float32"
    same_bits(cpuattn.attention(query, key, value, out=out), exact)
    same_bits(cpuattn.attention(numbers[0], key, value), exact)
    same_bits(
        wide(cpuattn.attention_weights(query, key)),
        wide(narrow(cpuattn.attention_weights(*numbers[:2]))),
    )


FEW = [
    Shape(queries=1, keys=1100, head_dim=128, heads=4),
    Shape(queries=3, keys=70, head_dim=21, value_dim=9),
    Shape(queries=2, keys=300, head_dim=33, value_dim=40, heads=4),
    Shape(queries=1, keys=1, head_dim=1),
]


@pytest.mark.parametrize("shape", FEW, ids=lambda s: f"{s.queries}x{s.keys}x{s.head_dim}")
@pytest.mark.parametrize("names", [(), *((name,) for name in OPTIONS)], ids="+".join)
def test_few_rows_round_only_the_result(shape: Shape, names: tuple[str, ...]) -> None:
    """The decode kernel's weights are float32."""
    options = make_case(shape, np.float32, names).options
    arrays = bfloat16_arrays(shape)
    assert cpuattn.explain(*arrays, **options)["kernel"] == "decode"
    assert cpuattn.explain(*arrays, **options)["products"] == "bfloat16"
    got, lse = cpuattn.attention(*arrays, **options, return_lse=True)
    numbers = [wide(x) for x in arrays]
    exact = attend(*numbers, dtype=np.float64, **options)
    plain = attend(*numbers, dtype=np.float32, **options)
    # Where float32 rounds to the other side of a tie, one digit is lost.
    assert_accurate(wide(got), exact.out, wide(narrow(plain.out)), DIGIT / 4)
    assert_accurate(lse, exact.lse, plain.lse)


def test_bits_of_few_rows() -> None:
    """They depend neither on threads, nor on strides, nor on the other rows and heads."""
    query, key, value = bfloat16_arrays(Shape(queries=3, keys=1500, head_dim=33, value_dim=20))
    expected = cpuattn.attention(query, key, value)
    same_bits(cpuattn.attention(query, key, value, num_threads=1), expected)
    strided = [
        np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2) for x in (query, key, value)
    ]
    same_bits(cpuattn.attention(*strided), expected)
    same_bits(cpuattn.attention(query[:, 1:, 2:], key[:, 1:], value[:, 1:]), expected[:, 1:, 2:])


def test_poison_of_few_rows() -> None:
    query, key, value = bfloat16_arrays(Shape(queries=2, keys=90, head_dim=18))
    expected = cpuattn.attention(query, key, value, key_lengths=61)
    key[:, :, 61:], value[:, :, 61:] = np.nan, np.nan
    same_bits(cpuattn.attention(query, key, value, key_lengths=61), expected)
    value[:, :, 60] = np.nan
    assert np.isnan(wide(cpuattn.attention(query, key, value, key_lengths=61))).all()


@given(
    queries=st.integers(9, 70),
    keys=st.integers(0, 200),
    head_dim=st.integers(0, 70),
    value_dim=st.integers(0, 40),
    names=st.lists(st.sampled_from(sorted(OPTIONS)), unique=True, max_size=4),
)
def test_random_calls(
    queries: int, keys: int, head_dim: int, value_dim: int, names: list[str]
) -> None:
    shape = Shape(queries, keys, head_dim, value_dim, heads=4)
    options = make_case(shape, np.float32, tuple(names)).options
    arrays = bfloat16_arrays(shape)
    numbers = [wide(x) for x in arrays]
    exact = attend(*numbers, dtype=np.float64, **options).out
    got = wide(cpuattn.attention(*arrays, **options))
    assert_accurate(got, exact, rounded_attention(numbers, options), DIGIT)
