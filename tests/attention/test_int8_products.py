"""The decode kernel that multiplies int8 numbers as they are: AVX512_VNNI.

Queries and weights become integers of three digits. All that the other kernels promise holds for it
too, to the accuracy of float32.
"""

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cpuattn
from cases import OPTIONS, Shape, make_case, paged
from oracle import Array, assert_accurate, attend

pytestmark = pytest.mark.usefixtures("int8_isa")

# (queries, group): every number of rows from 3 to 8 that share each read of a key.
ROWS = ((3, 1), (1, 4), (5, 1), (3, 2), (1, 7), (2, 4))
# Around the vectors of 16 keys, pieces of 64 and blocks of 512.
KEYS = (1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 66, 127, 129, 511, 512, 513, 1025)
# Around the columns of 16 dims of keys and of 32 of values.
DIMS = (*range(1, 18), 31, 32, 33, 40, 47, 63, 64, 65, 80, 96, 128, 130, 256)


class Int8Case:
    """Arguments of `cpuattn.attention` over an int8 cache, and the dense cache for the oracle."""

    def __init__(self, shape: Shape, names: tuple[str, ...] = (), seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        query, key, value = shape.arrays(rng, np.float32)
        self.query = query
        self.key, self.key_scale = quantised(key)
        self.value, self.value_scale = quantised(value)
        self.options: dict[str, Any] = dict(make_case(shape, np.float32, names).options)

    def run(self, **changes: Any) -> Any:
        own = {name: getattr(self, name) for name in ("query", "key", "value")}
        scales = {"key_scale": self.key_scale, "value_scale": self.value_scale}
        return cpuattn.attention(**(own | scales | self.options | changes))

    def products(self) -> str:
        plan = cpuattn.explain(
            self.query,
            self.key,
            self.value,
            key_scale=self.key_scale,
            value_scale=self.value_scale,
            **self.options,
        )
        return str(plan["products"])

    def check(self) -> None:
        """Compare with the oracle in float64, allowed what NumPy in float32 errs."""
        assert self.products() == "int8"
        dense = [
            x.astype(np.float64) * scale[..., None]
            for x, scale in ((self.key, self.key_scale), (self.value, self.value_scale))
        ]
        got, lse = self.run(return_lse=True)
        exact = attend(self.query, *dense, dtype=np.float64, **self.options)
        plain = attend(self.query, *dense, dtype=np.float32, **self.options)
        assert_accurate(got, exact.out, plain.out)
        assert_accurate(lse, exact.lse, plain.lse)


def quantised(x: Array) -> tuple[Array, Array]:
    """Round to int8; -128 is legal, and among them."""
    scale = np.abs(x).max(axis=-1, initial=2.0**-20) / np.float32(127)
    integers = np.rint(x / scale[..., None]).astype(np.int8)
    integers[integers == -127] = -128
    return integers, scale


def same_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def shape_of(
    rows: tuple[int, int], keys: int, head_dim: int, value_dim: int | None = None
) -> Shape:
    queries, group = rows
    return Shape(queries, keys, head_dim, value_dim, heads=2 * group, kv_heads=2)


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows_and_keys(rows: tuple[int, int], keys: int) -> None:
    Int8Case(shape_of(rows, keys, head_dim=24)).check()


@pytest.mark.parametrize("dim", DIMS)
def test_every_head_dim(dim: int) -> None:
    Int8Case(shape_of((1, 4), 67, dim)).check()
    Int8Case(shape_of((2, 4), 130, dim, 20)).check()
    Int8Case(shape_of((1, 3), 67, 20, dim)).check()


@pytest.mark.parametrize("rows", [(3, 1), (1, 4), (2, 3), (2, 4)], ids=str)
@pytest.mark.parametrize(
    "names", [*((name,) for name in OPTIONS), ("causal", "offset"), tuple(OPTIONS)], ids="+".join
)
def test_every_option(names: tuple[str, ...], rows: tuple[int, int]) -> None:
    for keys in (70, 600):
        Int8Case(shape_of(rows, keys, 40, 48), names).check()


@given(
    rows=st.sampled_from(ROWS),
    keys=st.integers(1, 600),
    dims=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    names=st.sets(st.sampled_from(sorted(OPTIONS)), max_size=3),
    seed=st.integers(0, 999),
)
def test_any_shape_and_options(
    rows: tuple[int, int], keys: int, dims: tuple[int, int], names: set[str], seed: int
) -> None:
    Int8Case(shape_of(rows, keys, *dims), tuple(sorted(names)), seed).check()


def test_one_and_two_rows_are_converted() -> None:
    """They are bound by reading; so the sequences of a packed batch are what they are alone."""
    assert Int8Case(shape_of((1, 2), 50, 16)).products() == "float32"
    assert Int8Case(shape_of((9, 1), 50, 16)).products() == "float32"
    lengths = [1, 3, 2, 8, 1]
    ends = np.cumsum([0, *lengths])
    rng = np.random.default_rng(0)
    query = rng.standard_normal((ends[-1], 2, 24), dtype=np.float32)
    key, value = rng.integers(-128, 128, (2, ends[-1], 2, 24), dtype=np.int8)
    scale = rng.random((ends[-1], 2), dtype=np.float32)
    got = cpuattn.attention_varlen(
        query, key, value, ends, ends, causal=True, key_scale=scale, value_scale=scale
    )
    for begin, end in itertools.pairwise(ends):
        parts = [x[begin:end].swapaxes(0, 1) for x in (query, key, value)]
        part = scale[begin:end].T
        alone = cpuattn.attention(*parts, causal=True, key_scale=part, value_scale=part)
        same_bits(got[begin:end].swapaxes(0, 1), alone)


@pytest.mark.parametrize("names", [(), ("causal",), ("window", "offset"), ("mask", "softcap")])
def test_bits_depend_on_nothing_else(names: tuple[str, ...]) -> None:
    """Not on threads, the batch, strides, or which other rows are in a call."""
    case = Int8Case(Shape(queries=2, keys=1301, head_dim=33, value_dim=20, heads=8), names)
    expected = case.run()
    for threads in (1, 2, 5):
        same_bits(case.run(num_threads=threads), expected)
    tokens = {"key": case.key, "value": case.value}
    turned = {
        k: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2) for k, x in tokens.items()
    }
    same_bits(case.run(**turned), expected)
    same_bits(
        case.run(**{k: np.repeat(x, 2, axis=-1)[..., ::2] for k, x in tokens.items()}), expected
    )
    same_bits(case.run(query=np.repeat(case.query, 2, axis=-1)[..., ::2]), expected)
    if not names:
        half = {
            name: getattr(case, name)[1:]
            for name in ("query", "key", "value", "key_scale", "value_scale")
        }
        same_bits(case.run(**half), expected[1:])
        for heads in (slice(0, 3), slice(1, 4)):  # 6 of 8 rows, of one group
            one = {name: x[:, :1] for name, x in half.items()}
            one["query"] = half["query"][:, heads]
            same_bits(case.run(**one), expected[1:, heads])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 63, 64, 65, 511, 512, 513])
def test_padding_changes_no_bit(length: int) -> None:
    case = Int8Case(shape_of((1, 4), 600, 16))
    cut = {name: getattr(case, name)[:, :, :length] for name in ("key", "value")}
    cut |= {name: getattr(case, name)[:, :, :length] for name in ("key_scale", "value_scale")}
    same_bits(case.run(key_lengths=length), case.run(**cut))


@pytest.mark.parametrize("size", [1, 3, 16, 64])
def test_pages_give_the_bits_of_rows(size: int) -> None:
    case = Int8Case(shape_of((2, 3), 700, 32))
    pages = {}
    for name, fill in (("key", 77), ("value", 77), ("key_scale", np.nan), ("value_scale", np.nan)):
        rng = np.random.default_rng(size)
        pages[name], table = paged(getattr(case, name), size, rng, fill)
    got = case.run(**pages, block_table=table, key_lengths=[700, 130])
    same_bits(got, case.run(key_lengths=[700, 130]))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [(3, 1), (1, 4), (2, 4)], ids=str)
def test_poison_in_scales(rows: tuple[int, int], poison: float) -> None:
    """What is hidden never leaks; what one row sees shows there, and in no other row."""
    case = Int8Case(shape_of(rows, 150, 40))
    rng = np.random.default_rng(0)
    hidden = rng.random(150) < 0.5
    hidden[:2], hidden[-2:] = (False, True), (True, False)
    queries = rows[0]
    mask = np.broadcast_to(~hidden, (case.query.shape[1], queries, 150)).copy()
    expected = case.run(mask=mask)
    dirty = {name: getattr(case, name).copy() for name in ("key_scale", "value_scale")}
    for scale in dirty.values():
        scale[:, :, hidden] = poison
    same_bits(case.run(mask=mask, **dirty), expected)
    mask[-1, -1, np.flatnonzero(hidden)[0]] = True  # one row sees one of them
    for name, scale in dirty.items():
        seen = case.run(mask=mask, **{name: scale})
        clean = case.run(mask=mask)
        if name == "value_scale" or np.isnan(poison):  # a score of -inf hides its key
            assert not np.isfinite(seen[:, -1, -1]).any(), name
        seen[:, -1, -1] = clean[:, -1, -1] = 0
        same_bits(seen, clean)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poison_in_queries(poison: float) -> None:
    case = Int8Case(shape_of((4, 1), 150, 40))
    expected = case.run()
    case.query[0, 1, 2, 7] = poison
    got = case.run()
    assert np.isnan(got[0, 1, 2]).all()
    got[0, 1, 2] = expected[0, 1, 2]
    same_bits(got, expected)


def test_scales_may_be_negative() -> None:
    """They are multiplied as they are, in one pass over the values for each sign."""
    case = Int8Case(shape_of((1, 4), 300, 40, 33), ("mask",))
    case.check()
    rng = np.random.default_rng(0)
    for name in ("key_scale", "value_scale"):
        getattr(case, name)[rng.random(case.key_scale.shape) < 0.5] *= -1
    case.check()
    turned = case.run(value_scale=-case.value_scale)
    same_bits(turned, -case.run())
    case.value = np.ascontiguousarray(case.value.swapaxes(-1, -2)).swapaxes(-1, -2)
    same_bits(case.run(value_scale=-case.value_scale), turned)
    case.check()


def test_zero_scales_and_queries() -> None:
    case = Int8Case(shape_of((1, 4), 100, 40))
    case.query[0] = 0
    case.value_scale[1] = 0
    case.check()
    assert not case.run()[1].any()


@pytest.mark.parametrize("power", [-140, -100, -60, 60, 100, 120])
def test_any_magnitude(power: int) -> None:
    """Queries and values of any size; the scales of the keys bring the scores back."""
    case = Int8Case(shape_of((1, 4), 100, 40))
    case.query = case.query * np.float32(2.0**power)
    case.key_scale = np.ldexp(case.key_scale, np.clip(-power, -100, 120))
    case.value_scale = np.ldexp(case.value_scale, max(power, -60))
    case.check()


def test_queries_with_outliers() -> None:
    """A few large dims, as trained models have them, take no digits from the others that count."""
    case = Int8Case(shape_of((1, 4), 300, 128))
    case.query[..., ::37] *= 30
    case.options["scale"] = 0.01
    case.check()


def test_weights_of_any_size() -> None:
    """One key with nearly all of the weight, or values whose scales differ by far."""
    case = Int8Case(shape_of((1, 4), 600, 64))
    case.options["scale"] = 2.0
    case.check()
    case = Int8Case(shape_of((1, 4), 600, 64))
    case.value_scale *= np.exp(3 * np.random.default_rng(0).standard_normal(case.value_scale.shape))
    case.check()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_narrow_queries(dtype: Any) -> None:
    case = Int8Case(shape_of((1, 4), 600, 64))
    case.query = case.query.astype(dtype)
    got = case.run()
    assert got.dtype == np.dtype(dtype)
    case.query = case.query.astype(np.float32)
    case.check()
    same_bits(got.astype(np.float32), case.run().astype(dtype).astype(np.float32))


def test_no_dims() -> None:
    case = Int8Case(shape_of((1, 4), 30, 8, 0))
    assert case.run().shape == (2, 8, 1, 0)
    out, lse = case.run(return_lse=True)
    dense = case.key * case.key_scale[..., None], case.value * case.value_scale[..., None]
    exact = attend(case.query, *dense, dtype=np.float64)
    assert_accurate(lse, exact.lse, attend(case.query, *dense, dtype=np.float32).lse)
    assert out.size == 0
    case = Int8Case(shape_of((1, 4), 30, 0, 8))
    np.testing.assert_allclose(
        case.run()[:, 0, 0], (case.value[:, 0] * case.value_scale[:, 0, :, None]).mean(1), rtol=1e-5
    )
