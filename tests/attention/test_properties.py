"""Hypothesis: any shape, layout, dtype and set of options, against the oracle."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cpuattn
from cases import OPTIONS, Shape, case_of
from oracle import Array, Dtype, assert_accurate

pytestmark = pytest.mark.usefixtures("isa")

# The instruction set is the same for all examples of one run, as it should be.
each_isa = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# Small sizes meet all edges; now and then one that spans several blocks.
lengths = st.one_of(st.integers(0, 20), st.integers(60, 70), st.sampled_from([96, 130, 200]))
dtypes: st.SearchStrategy[Dtype] = st.sampled_from([np.float32, np.float64])


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    kv_heads = draw(st.integers(1, 3))
    return Shape(
        queries=draw(st.one_of(st.integers(1, 9), lengths)),
        keys=draw(st.one_of(lengths, st.integers(500, 530))),
        head_dim=draw(st.integers(1, 40)),
        value_dim=draw(st.integers(1, 40)),
        heads=kv_heads * draw(st.integers(1, 4)),
        kv_heads=kv_heads,
        batch=draw(st.integers(1, 2)),
    )


@st.composite
def layouts(draw: st.DrawFn, x: Array) -> Array:
    """x in other memory: axes in any order, any of them backwards or with gaps."""
    order = draw(st.permutations(range(x.ndim)))
    steps = draw(st.lists(st.sampled_from([1, 1, -1, 2, -3]), min_size=x.ndim, max_size=x.ndim))
    sizes = zip(x.transpose(order).shape, steps, strict=True)
    memory = np.full([n * abs(step) for n, step in sizes], np.nan, x.dtype)
    view = memory[tuple(slice(None, None, step) for step in steps)].transpose(np.argsort(order))
    view[...] = x
    return view


@st.composite
def arguments(draw: st.DrawFn) -> tuple[tuple[Array, Array, Array], dict[str, Any]]:
    shape, dtype = draw(shapes()), draw(dtypes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    options: dict[str, Any] = {}
    for name in draw(st.sets(st.sampled_from(sorted(OPTIONS)), max_size=4)):
        options |= OPTIONS[name](shape, rng)
    return shape.arrays(rng, dtype), options


@each_isa
@given(arguments())
def test_options(call: tuple[tuple[Array, Array, Array], dict[str, Any]]) -> None:
    arrays, options = call
    case_of(arrays, **options).check()


@each_isa
@given(st.data(), arguments())
def test_layouts(
    data: st.DataObject, call: tuple[tuple[Array, Array, Array], dict[str, Any]]
) -> None:
    arrays, options = call
    expected, expected_lse = cpuattn.attention(*arrays, **options, return_lse=True)
    query, key, value = (data.draw(layouts(x)) for x in arrays)
    if "bias" in options:
        options["bias"] = data.draw(layouts(options["bias"]))
    out = data.draw(layouts(np.zeros_like(expected)))
    _, lse = cpuattn.attention(query, key, value, **options, out=out, return_lse=True)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(lse, expected_lse)


@st.composite
def ranges(draw: st.DrawFn, shape: Shape) -> dict[str, Any]:
    """Everything that bounds the keys of a row by an interval."""
    side = st.none() | st.integers(0, 300)
    length = int(draw(st.floats(0, 1)) * shape.keys)
    return {
        "window": draw(st.tuples(side, side)),
        "query_offset": draw(st.none() | st.integers(-40, 600)),
        "causal": draw(st.booleans()),
        "key_lengths": [length] * shape.batch,
    }


@each_isa
@given(st.data(), shapes(), dtypes)
def test_visible_ranges(data: st.DataObject, shape: Shape, dtype: Dtype) -> None:
    arrays = shape.arrays(np.random.default_rng(0), dtype)
    case_of(arrays, **data.draw(ranges(shape))).check()


@st.composite
def broadcastable(draw: st.DrawFn, full: tuple[int, ...], trailing: tuple[int, int]) -> Array:
    """An array whose leading dimensions are those of `full`, or 1, or missing."""
    lead = [draw(st.sampled_from([1, n])) for n in full]
    kept = lead[draw(st.integers(0, len(lead))) :]
    return np.random.default_rng(0).standard_normal((*kept, *trailing)).astype(np.float32)


@each_isa
@given(
    data=st.data(),
    full=st.lists(st.integers(1, 3), max_size=4),
    queries=st.integers(1, 20),
    keys=st.integers(0, 40),
)
def test_broadcasting(data: st.DataObject, full: list[int], queries: int, keys: int) -> None:
    # Key and value have as many heads; queries have a multiple of them.
    query = data.draw(broadcastable((*full, 2), (queries, 5)))
    key = data.draw(broadcastable((*full, 1), (keys, 5)))
    value = data.draw(broadcastable((*full, 1), (keys, 4)))
    case = case_of((query, key, value))
    out = cpuattn.attention(query, key, value)
    assert_accurate(out, case.exact.out, case.plain.out)
