"""Any memory layout of inputs, options and output gives the bits of the contiguous one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import Case, Shape, make_case
from oracle import Array, Dtype

pytestmark = pytest.mark.usefixtures("isa")


def transposed(x: Array) -> Array:
    """A (B, H, L, D) view of (B, L, H, D) memory."""
    return np.ascontiguousarray(x.swapaxes(-2, -3)).swapaxes(-2, -3)


def poison(x: Array) -> object:
    return True if x.dtype == bool else np.nan


def embedded(x: Array) -> Array:
    """Every second element of every axis of a larger array that holds poison elsewhere."""
    big = np.full([2 * n + 1 for n in x.shape], poison(x), x.dtype)
    view = big[tuple(slice(1, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def crowded(x: Array) -> Array:
    """Rows a multiple of 512 bytes apart, which share few sets of a cache: some are copied."""
    step = 512 // x.itemsize
    big = np.full((*x.shape[:-1], -(-x.shape[-1] // step) * step), poison(x), x.dtype)
    view = big[..., : x.shape[-1]]
    view[...] = x
    return view


def backwards(x: Array) -> Array:
    """Negative strides on every axis."""
    flip = (slice(None, None, -1),) * x.ndim
    return x[flip].copy()[flip]


def last_axis_strided(x: Array) -> Array:
    return np.stack([x, np.full_like(x, poison(x))], axis=-1)[..., 0]


def misaligned(x: Array) -> Array:
    """Elements that begin one byte after an aligned address."""
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


def odd_row_stride(x: Array) -> Array:
    """Rows whose distance in bytes is no multiple of the element size."""
    width = x.shape[-1] * x.itemsize
    rows = np.zeros((*x.shape[:-1], width + 1), np.uint8)
    view: Array = rows[..., :width].view(x.dtype)
    view[...] = x
    return view


def byteswapped(x: Array) -> Array:
    return x.astype(x.dtype.newbyteorder())


def read_only(x: Array) -> Array:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


ZERO_COPY: tuple[Callable[[Array], Array], ...] = (
    transposed,
    np.asfortranarray,
    embedded,
    crowded,
    backwards,
    last_axis_strided,
    read_only,
)
COPIED = (misaligned, odd_row_stride, byteswapped)


@pytest.fixture(params=[Shape(37, 101, 9, 6, heads=4), Shape(2, 150, 9, 6)], ids=["many", "few"])
def case(request: pytest.FixtureRequest, dtype: Dtype) -> Case:
    return make_case(request.param, dtype, ("bias", "mask", "causal"))


@pytest.mark.parametrize("layout", [*ZERO_COPY, *COPIED], ids=lambda f: f.__name__)
def test_inputs(layout: Callable[[Array], Array], case: Case) -> None:
    expected = cpuattn.attention(*case.arrays, **case.options)
    for i in range(3):
        arrays = [layout(x) if i == j else x for j, x in enumerate(case.arrays)]
        np.testing.assert_array_equal(cpuattn.attention(*arrays, **case.options), expected)
    arrays = [layout(x) for x in case.arrays]
    np.testing.assert_array_equal(cpuattn.attention(*arrays, **case.options), expected)
    copies = cpuattn.explain(*arrays, **case.options)["copies"]
    assert bool(copies) == (layout in COPIED)


@pytest.mark.parametrize("layout", [crowded, last_axis_strided], ids=lambda f: f.__name__)
def test_values_in_several_slices(layout: Callable[[Array], Array], dtype: Dtype) -> None:
    case = make_case(Shape(70, 201, 9, 300), dtype, ("causal",))
    query, key, value = case.arrays
    out = cpuattn.attention(query, key, layout(value), **case.options)
    expected = cpuattn.attention(query, key, value, **case.options)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    "layout", [transposed, np.asfortranarray, embedded, backwards, last_axis_strided, read_only]
)
def test_masks_and_biases(layout: Callable[[Array], Array], case: Case) -> None:
    expected = cpuattn.attention(*case.arrays, **case.options)
    bias = layout(case.options["bias"])
    mask = layout(case.options["mask"])
    for options in ({"bias": bias}, {"mask": mask}, {"bias": bias, "mask": mask}):
        out = cpuattn.attention(*case.arrays, **(case.options | options))
        np.testing.assert_array_equal(out, expected)


def test_every_permutation_of_axes(case: Case) -> None:
    expected = cpuattn.attention(*case.arrays, **case.options)
    for order in np.ndindex(4, 4, 4, 4):
        if len(set(order)) < 4:
            continue
        back = np.argsort(order)
        arrays = [np.ascontiguousarray(x.transpose(order)).transpose(back) for x in case.arrays]
        np.testing.assert_array_equal(cpuattn.attention(*arrays, **case.options), expected)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
def test_stride_zero(which: int, axis: int, case: Case) -> None:
    arrays = list(case.arrays)
    one = arrays[which].take([0], axis=axis)
    arrays[which] = np.broadcast_to(one, arrays[which].shape)
    expected = cpuattn.attention(*(x.copy() for x in arrays), **case.options)
    np.testing.assert_array_equal(cpuattn.attention(*arrays, **case.options), expected)
    assert cpuattn.explain(*arrays, **case.options)["copies"] == []


@pytest.mark.parametrize(
    "layout", [np.ascontiguousarray, transposed, np.asfortranarray, embedded, backwards]
)
def test_output(layout: Callable[[Array], Array], case: Case) -> None:
    expected, expected_lse = cpuattn.attention(*case.arrays, **case.options, return_lse=True)
    out = layout(np.full_like(expected, np.nan))
    result, lse = cpuattn.attention(*case.arrays, **case.options, out=out, return_lse=True)
    assert result is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(lse, expected_lse)


def test_output_touches_nothing_between_its_elements(case: Case) -> None:
    shape = cpuattn.attention(*case.arrays, **case.options).shape
    big = np.full([2 * n + 3 for n in shape], 7, case.arrays[0].dtype)
    inside = tuple(slice(1, 2 * n + 1, 2) for n in shape)
    cpuattn.attention(*case.arrays, **case.options, out=big[inside])
    touched = np.zeros(big.shape, bool)
    touched[inside] = True
    assert (big[~touched] == 7).all()


def test_inputs_are_left_alone(case: Case) -> None:
    before = [x.copy() for x in case.arrays]
    cpuattn.attention(*case.arrays, **case.options)
    for array, copy in zip(case.arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_array_protocols(case: Case) -> None:
    class Wrapped:
        def __init__(self, array: Array) -> None:
            self.array = array

    class HasArray(Wrapped):
        def __array__(self, dtype: object = None, copy: object = None) -> Array:
            assert dtype is None
            assert not copy
            return self.array

    class HasDlpack(Wrapped):
        def __dlpack__(self, **arguments: object) -> object:
            return self.array.__dlpack__(**arguments)  # type: ignore[arg-type]

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

    expected = cpuattn.attention(*case.arrays, **case.options)
    for kind in (HasArray, HasDlpack):
        arrays: list[Any] = [kind(x) for x in case.arrays]
        np.testing.assert_array_equal(cpuattn.attention(*arrays, **case.options), expected)
