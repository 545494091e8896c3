"""Narrow numbers: read exactly, computed in float32, rounded once on the way out."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import cpuattn
from cases import Case, Shape, case_of, make_case
from oracle import Array, assert_accurate

pytestmark = pytest.mark.usefixtures("isa")

NARROW = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

# Both kernels, head_dims in whole vectors and not, one that is copied in slices, split keys.
SHAPES = (
    Shape(queries=70, keys=210, head_dim=64, heads=4),
    Shape(queries=33, keys=150, head_dim=15, value_dim=40, heads=4),
    Shape(queries=9, keys=100, head_dim=200, value_dim=130),
    Shape(queries=1, keys=1100, head_dim=128, heads=8),
    Shape(queries=3, keys=70, head_dim=21, value_dim=9, heads=4),
)
OPTIONS = ((), ("causal", "lengths"), ("mask", "bias", "sinks", "alibi"), ("softcap", "window"))


@pytest.fixture(params=SHAPES, ids=lambda s: f"{s.queries}x{s.keys}x{s.head_dim}")
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=OPTIONS, ids="+".join)
def case(request: pytest.FixtureRequest, shape: Shape) -> Case:
    return make_case(shape, np.float32, request.param)


@pytest.fixture(params=NARROW)
def narrow(request: pytest.FixtureRequest) -> np.dtype[Any]:
    dtype: np.dtype[Any] = NARROW[request.param]
    return dtype


def same_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual.astype(np.float64), expected.astype(np.float64))


def wide(x: Array) -> Array:
    return x.astype(np.float32)


def test_narrow_cache_is_read_exactly(case: Case, narrow: np.dtype[Any]) -> None:
    """A key and value in 16 bits give the bits of the same numbers in float32."""
    query, key, value = case.arrays
    key, value = key.astype(narrow), value.astype(narrow)
    got, lse = cpuattn.attention(query, key, value, return_lse=True, **case.options)
    expected = cpuattn.attention(query, wide(key), wide(value), return_lse=True, **case.options)
    same_bits(got, expected[0])
    same_bits(lse, expected[1])


def test_everything_narrow(case: Case, narrow: np.dtype[Any]) -> None:
    query, key, value = (x.astype(narrow) for x in case.arrays)
    options = case.options | {"return_lse": True}
    if "bias" in options:
        options["bias"] = options["bias"].astype(narrow)
    got, lse = cpuattn.attention(query, key, value, **options)
    if "bias" in options:
        options["bias"] = wide(options["bias"])
    expected = cpuattn.attention(wide(query), wide(key), wide(value), **options)
    same_bits(got, expected[0].astype(narrow))
    same_bits(lse, expected[1])


@pytest.mark.parametrize("output", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("query_dtype", ["float16", "bfloat16", "float32"])
def test_mixtures(shape: Shape, narrow: np.dtype[Any], query_dtype: str, output: str) -> None:
    dtypes = NARROW | {"float32": np.dtype(np.float32)}
    query, key, value = make_case(shape).arrays
    query = query.astype(dtypes[query_dtype])
    key, value = key.astype(narrow), value.astype(narrow)
    expected = cpuattn.attention(wide(query), wide(key), wide(value), causal=True)
    out = np.empty(expected.shape, dtypes[output])
    assert cpuattn.attention(query, key, value, causal=True, out=out) is out
    same_bits(out, expected.astype(dtypes[output]))
    weights = cpuattn.attention_weights(query, key, causal=True)
    assert weights.dtype == query.dtype
    same_bits(
        weights, cpuattn.attention_weights(wide(query), wide(key), causal=True).astype(query.dtype)
    )


@pytest.mark.parametrize("arrange", ["transposed", "reversed", "every second", "broadcast"])
def test_strides(shape: Shape, narrow: np.dtype[Any], arrange: str) -> None:
    def arranged(x: Array) -> Array:
        if arrange == "transposed":
            return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
        if arrange == "reversed":
            return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
        if arrange == "every second":
            return np.repeat(x, 2, axis=-1)[..., ::2]
        return np.broadcast_to(x[:1, :1], x.shape)

    arrays = [arranged(x.astype(narrow)) for x in make_case(shape).arrays]
    plain = [np.ascontiguousarray(x) for x in arrays]
    out = arranged(np.zeros(cpuattn.attention(*plain).shape, narrow))
    if arrange == "broadcast":
        out = out.copy()
    same_bits(cpuattn.attention(*arrays, out=out), cpuattn.attention(*plain))


def round_trip(value: Array, out_dtype: np.dtype[Any]) -> Array:
    """Attend to a single key: the output is its value, as that is read and written."""
    key = np.zeros((1, 1), value.dtype)
    out = np.empty((1, value.size), out_dtype)
    cpuattn.attention(key, key, value[None], out=out)
    return out.ravel()


def test_every_number_is_read_exactly(narrow: np.dtype[Any]) -> None:
    value = np.arange(1 << 16, dtype=np.uint16).view(narrow)
    # Weights are kept 2^-32 times smaller: below 2^-94 a float would lose digits.
    value = value[np.isfinite(wide(value)) & (abs(wide(value)) > 2.0**-94)]
    np.testing.assert_array_equal(round_trip(value, np.dtype(np.float32)), wide(value))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_rounding_to_nearest_even(narrow: np.dtype[Any]) -> None:
    numbers = wide(np.arange(1 << 16, dtype=np.uint16).view(narrow))
    numbers = numbers[np.isfinite(numbers) & (abs(numbers) > 2.0**-60)]
    above = np.nextafter(numbers, np.float32(np.inf))
    bits = numbers.view(np.uint32)
    half = np.uint32(0x1000 if narrow == np.float16 else 0x8000)
    ties = (bits | half).view(np.float32)
    value = np.concatenate([numbers, above, ties, np.nextafter(ties, np.float32(0))])
    value = np.concatenate(
        [value, np.array([65519.9, 65520, 1e5, 2.0**-25, 2.0**-24 * 1.5], np.float32)]
    )
    same_bits(round_trip(value, narrow), value.astype(narrow))


def test_large_scores_do_not_overflow(narrow: np.dtype[Any]) -> None:
    """Of 1e5 and more, where float16 itself ends at 65504 (pytorch#160841, #121558)."""
    query = np.full((1, 2, 80), 256, narrow)
    key = np.full((1, 3, 80), 256, narrow)
    value = np.arange(6).reshape(1, 3, 2).astype(narrow)
    np.testing.assert_array_equal(
        wide(cpuattn.attention(query, key, value, scale=1)), [[[2, 3]] * 2]
    )


@pytest.mark.parametrize(("name", "bound"), [("float16", 2.9e-4), ("bfloat16", 2.2e-3)])
@pytest.mark.parametrize("causal", [False, True])
def test_error_on_normal_inputs(name: str, bound: float, *, causal: bool) -> None:
    """At most the error of torch's paths of the same dtype."""
    rng = np.random.default_rng(3)
    query, key, value = rng.standard_normal((3, 4, 300, 64)).astype(NARROW[name])
    exact = cpuattn.reference.attention_numpy(
        *(x.astype(np.float64) for x in (query, key, value)), causal=causal
    )
    got = cpuattn.attention(query, key, value, causal=causal).astype(np.float64)
    assert np.linalg.norm(got - exact) < bound * np.linalg.norm(exact)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poison(shape: Shape, narrow: np.dtype[Any], poison: float) -> None:
    query, key, value = (x.astype(narrow) for x in make_case(shape).arrays)
    lengths = [shape.keys // 2, shape.keys]
    expected = cpuattn.attention(query, key, value, key_lengths=lengths)
    key[0, :, lengths[0] :], value[0, :, lengths[0] :] = poison, poison
    value[1, :, -1] = poison
    got = cpuattn.attention(query, key, value, key_lengths=lengths)
    same_bits(got[0], expected[0])
    assert not np.isfinite(wide(got[1])).any()


def quantised(x: Array) -> tuple[Array, Array]:
    scale = np.abs(x).max(axis=-1) / np.float32(127)
    return np.rint(x / scale[..., None]).astype(np.int8), scale


def test_int8(case: Case) -> None:
    query, key, value = case.arrays
    key, key_scale = quantised(key)
    value, value_scale = quantised(value)
    got, lse = cpuattn.attention(
        query,
        key,
        value,
        key_scale=key_scale,
        value_scale=value_scale,
        return_lse=True,
        **case.options,
    )
    dense = key * key_scale[..., None], value * value_scale[..., None]
    assert dense[0].dtype == np.float32
    same = case_of((query, *dense), **case.options)
    assert_accurate(got, same.exact.out, same.plain.out)
    assert_accurate(lse, same.exact.lse, same.plain.lse)
    plan = cpuattn.explain(*case.arrays, **case.options)
    if plan["kernel"] == "forward":  # scaled as they are read, as NumPy scales them
        same_bits(got, cpuattn.attention(query, *dense, **case.options))


def test_int8_scales_by_strides_and_broadcast() -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, 4, 1, 32)).astype(np.float32)
    key, value = rng.integers(-127, 128, (2, 2, 4, 300, 32), dtype=np.int8)
    scale = rng.random((300, 4), dtype=np.float32).T
    got = cpuattn.attention(query, key, value, key_scale=scale, value_scale=scale[:1])
    whole = np.ascontiguousarray(np.broadcast_to(scale, (2, 4, 300)))
    first = np.ascontiguousarray(np.broadcast_to(scale[:1], (2, 4, 300)))
    same_bits(got, cpuattn.attention(query, key, value, key_scale=whole, value_scale=first))


@pytest.mark.parametrize("queries", [1, 40])
def test_int8_poison_in_scales(queries: int) -> None:
    """A scale of NaN poisons its token, and only those that see it."""
    query = np.ones((2, 1, queries, 16), np.float32)
    tokens = np.ones((2, 1, 90, 16), np.int8)
    scale = np.ones((2, 1, 90), np.float32)
    scale[0, :, 60:] = np.nan
    scale[1, :, 10] = np.nan
    got = cpuattn.attention(
        query, tokens, tokens, key_scale=scale, value_scale=scale, key_lengths=[60, 90]
    )
    np.testing.assert_array_equal(got[0], np.ones_like(got[0]))
    assert np.isnan(got[1]).all()


def test_sinks_and_slopes_of_narrow_dtypes(narrow: np.dtype[Any]) -> None:
    query, key, value = (x.astype(narrow) for x in make_case(SHAPES[0]).arrays)
    numbers = np.array([0.5, 0.25, 2, 1])
    expected = cpuattn.attention(query, key, value, sinks=numbers, alibi_slopes=numbers)
    numbers = numbers.astype(narrow)
    same_bits(cpuattn.attention(query, key, value, sinks=numbers, alibi_slopes=numbers), expected)


@pytest.mark.parametrize("queries", [63, 64, 65, 95, 96, 97, 127, 128, 129, 150])
@pytest.mark.parametrize(
    "names", [(), ("causal",), ("mask", "bias"), ("lengths", "window")], ids=str
)
def test_blocks_side_by_side(queries: int, names: tuple[str, ...]) -> None:
    """Two blocks of queries share what is converted: the bits of blocks that convert nothing."""
    shape = Shape(queries, 800, head_dim=40, value_dim=24, heads=4)
    case = make_case(shape, np.float32, names)
    query, key, value = case.arrays
    half = key.astype(np.float16), value.astype(np.float16)
    dense = tuple(x.astype(np.float32) for x in half)
    expected = cpuattn.attention(query, *dense, **case.options, return_lse=True)
    for got, same in zip(
        cpuattn.attention(query, *half, **case.options, return_lse=True), expected, strict=True
    ):
        same_bits(got, same)


def test_the_plan_tells_of_two_blocks() -> None:
    query, key, value = make_case(Shape(256, 300, head_dim=16, heads=8, kv_heads=8)).arrays
    half = key.astype(np.float16), value.astype(np.float16)
    one = cpuattn.explain(query, key, value, num_threads=1)["query_block"]
    assert cpuattn.explain(query, *half, num_threads=1)["query_block"] == 2 * one
    few = query[:, :, : 2 * one - 1]
    assert cpuattn.explain(few, *half, num_threads=1)["query_block"] == one


@pytest.mark.parametrize(
    "make",
    [
        lambda: cpuattn.KVCache(1, 1, 1, dtype=None),  # type: ignore[arg-type]
        lambda: cpuattn.PagedKVCache(1, 1, 1, 1, dtype=None),  # type: ignore[arg-type]
        lambda: cpuattn.MultiHeadAttention(4, 1, dtype=None),  # type: ignore[arg-type]
        lambda: cpuattn.dequantize_int8(
            np.ones((1, 1), np.int8),
            np.ones(1, np.float32),
            dtype=None,  # type: ignore[arg-type]
        ),
    ],
    ids=["KVCache", "PagedKVCache", "MultiHeadAttention", "dequantize_int8"],
)
def test_no_dtype_is_not_float64(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r"^dtype must be float32.* got None"):
        make()


def test_byte_swapped_float16() -> None:
    arrays = [x.astype(np.float16) for x in make_case(SHAPES[1]).arrays]
    swapped = [x.astype(">f2") for x in arrays]
    same_bits(cpuattn.attention(*swapped), cpuattn.attention(*arrays))
    assert len(cpuattn.explain(swapped[0], swapped[1], swapped[2])["copies"]) == 3
