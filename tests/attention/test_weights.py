"""attention_weights: the matrix of every stage, where someone asks for it."""

import itertools
from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import OPTIONS, Shape, case_of, make_case, paged
from oracle import Array, Dtype, assert_accurate, eps

pytestmark = pytest.mark.usefixtures("isa")

STAGES: tuple[Any, ...] = ("scores", "softcapped", "masked", "weights")
SHAPES = (
    Shape(queries=70, keys=130, head_dim=9, heads=4),
    Shape(queries=1, keys=600, heads=4, kv_heads=1),
    Shape(queries=17, keys=5, batch=3),
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.queries}x{s.keys}")
@pytest.mark.parametrize(
    "names",
    [(), *((name,) for name in OPTIONS), ("softcap", "bias", "sinks"), tuple(OPTIONS)],
    ids="+".join,
)
def test_stages(names: tuple[str, ...], shape: Shape, dtype: Dtype) -> None:
    case = make_case(shape, dtype, names)
    query, key, _ = case.arrays
    for stage in STAGES:
        actual = cpuattn.attention_weights(query, key, **case.options, stage=stage)
        assert_accurate(actual, getattr(case.exact, stage), getattr(case.plain, stage))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.queries}x{s.keys}")
def test_weights_are_the_default_and_give_the_output(shape: Shape, dtype: Dtype) -> None:
    case = make_case(shape, dtype, ("causal", "softcap"))
    query, key, value = case.arrays
    weights = cpuattn.attention_weights(query, key, **case.options)
    group = query.shape[1] // key.shape[1]
    out = weights @ np.repeat(value, group, axis=1)
    expected = cpuattn.attention(*case.arrays, **case.options)
    np.testing.assert_allclose(out, expected, rtol=0, atol=20 * eps(dtype))
    sums = weights.sum(axis=-1)
    seen = np.isfinite(case.exact.lse)
    np.testing.assert_allclose(sums[seen], 1, rtol=20 * eps(dtype))
    assert (sums[~seen] == 0).all()


@pytest.mark.parametrize("lead", [(), (3,), (2, 1, 4)], ids=str)
def test_ranks(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    query, key = (rng.standard_normal((*lead, n, 6)).astype(np.float32) for n in (12, 20))
    case = case_of((query, key, key), causal=True)
    weights = cpuattn.attention_weights(query, key, causal=True)
    assert weights.shape == (*lead, 12, 20)
    assert_accurate(weights, case.exact.weights, case.plain.weights)


@pytest.mark.parametrize("empty", ["batch", "heads", "queries", "keys", "head_dim"])
def test_empty_dimensions(empty: str) -> None:
    sizes = {"batch": 2, "heads": 2, "queries": 3, "keys": 4, "head_dim": 5} | {empty: 0}
    shape = Shape(**sizes, kv_heads=sizes["heads"])
    case = make_case(shape)
    for stage in STAGES:
        actual = cpuattn.attention_weights(*case.arrays[:2], stage=stage)
        assert_accurate(actual, getattr(case.exact, stage), getattr(case.plain, stage))


@pytest.mark.parametrize("queries", [1, 40])
def test_masked_poison_stays_out_of_weights(queries: int, dtype: Dtype) -> None:
    query, key, _ = Shape(queries, 150).arrays(np.random.default_rng(1), dtype)
    mask = np.arange(150) % 3 != 0
    clean = cpuattn.attention_weights(query, key, mask=mask)
    key[..., ~mask, :] = np.nan
    np.testing.assert_array_equal(cpuattn.attention_weights(query, key, mask=mask), clean)
    masked = cpuattn.attention_weights(query, key, mask=mask, stage="masked")
    assert np.isneginf(masked[..., ~mask]).all()
    assert np.isfinite(masked[..., mask]).all()
    scores = cpuattn.attention_weights(query, key, mask=mask, stage="scores")
    assert np.isnan(scores[..., ~mask]).all()


def test_same_bits_on_any_threads(dtype: Dtype) -> None:
    case = make_case(Shape(100, 210, heads=4), dtype, ("causal", "alibi"))
    for stage, number in itertools.product(STAGES, (2, 7)):
        one, many = (
            cpuattn.attention_weights(
                *case.arrays[:2], **case.options, stage=stage, num_threads=threads
            )
            for threads in (1, number)
        )
        np.testing.assert_array_equal(one, many)


def without_tail(expected: Array, lengths: list[int], stage: str) -> Array:
    """Let the keys behind the lengths have what they have where they are not looked up."""
    expected = expected.copy()
    for entry, length in zip(expected, lengths, strict=True):
        entry[..., length:] = 0 if stage == "weights" else -np.inf
    return expected


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("page_size", [1, 16, 100, 1000])
@pytest.mark.parametrize("queries", [1, 70])
@pytest.mark.parametrize("names", [(), ("causal", "softcap", "sinks"), ("mask", "bias", "alibi")])
def test_pages_equal_contiguous_rows(
    names: tuple[str, ...], queries: int, page_size: int, stage: Any, dtype: Dtype
) -> None:
    case, lengths, rng = (
        make_case(Shape(queries, 300, heads=4, batch=3), dtype, names),
        [300, 0, 101],
        np.random.default_rng(0),
    )
    query, key = case.arrays[0], case.arrays[1].copy()
    options: dict[str, Any] = case.options | {"key_lengths": lengths, "stage": stage}
    expected = without_tail(cpuattn.attention_weights(query, key, **options), lengths, stage)
    for entry, length in zip(key, lengths, strict=True):
        entry[:, length:] = np.nan  # in the last page in use, and in others
    pages, table = paged(key, page_size, rng, np.nan)
    for row, length in zip(table, lengths, strict=True):
        row[-(-length // page_size) :] = -1
    more = table.shape[1] * page_size - 300  # the rest of the last page
    for name in {"mask", "bias"} & options.keys():
        options[name] = np.pad(options[name], [(0, 0)] * (options[name].ndim - 1) + [(0, more)])
    got = cpuattn.attention_weights(query, pages, block_table=table, **options)
    np.testing.assert_array_equal(got[..., :300], expected)
    assert (got[..., 300:] == (0 if stage == "weights" else -np.inf)).all()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("queries", [1, 70])
def test_int8_pages(queries: int, stage: Any) -> None:
    rng = np.random.default_rng(7)
    query = rng.standard_normal((2, 4, queries, 40)).astype(np.float16)
    key = rng.integers(-127, 128, (2, 2, 300, 40), dtype=np.int8)
    scale = rng.random((2, 2, 300), dtype=np.float32)
    options: dict[str, Any] = {"key_lengths": [300, 123], "causal": True, "stage": stage}
    expected = cpuattn.attention_weights(query, key, key_scale=scale, **options)
    (pages, table), (scales, _) = (
        paged(x, 16, np.random.default_rng(8), fill) for x, fill in ((key, 99), (scale, np.nan))
    )
    got = cpuattn.attention_weights(query, pages, key_scale=scales, block_table=table, **options)
    expected = without_tail(expected, [300, 123], stage)
    np.testing.assert_array_equal(got[..., :300], expected)


@pytest.mark.parametrize("out_dtype", [np.float32, np.float16])
def test_out_is_written_in_place(out_dtype: Any) -> None:
    query, key, _ = make_case(Shape(queries=40, keys=130)).arrays
    expected = cpuattn.attention_weights(query, key, causal=True)
    out = np.zeros((2, 130, 2, 40), out_dtype).transpose(0, 2, 3, 1)
    assert cpuattn.attention_weights(query, key, causal=True, out=out) is out
    np.testing.assert_array_equal(out, expected.astype(out_dtype))
    with pytest.raises(ValueError, match=r"out has shape .* it must be \(2, 2, 40, 130\)"):
        cpuattn.attention_weights(query, key, out=out[..., 1:])
    key = key.copy()
    with pytest.raises(ValueError, match="out overlaps key"):
        cpuattn.attention_weights(query, key, out=key[..., :1].swapaxes(2, 3))


def test_unknown_stage_lists_the_known() -> None:
    x = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="stage") as info:
        cpuattn.attention_weights(x, x, stage="logits")  # type: ignore[arg-type]
    for part in ("logits", *STAGES):
        assert part in str(info.value)


def test_errors_name_the_argument() -> None:
    x = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="key"):
        cpuattn.attention_weights(x, np.ones((3, 5), np.float32))
    with pytest.raises(TypeError, match="key"):
        cpuattn.attention_weights(x, x.astype(np.float64))
    with pytest.raises(ValueError, match="window"):
        cpuattn.attention_weights(x, x, window=-1)
    pages: Any = np.ones((2, 1, 3, 4), np.float32)
    with pytest.raises(ValueError, match="key_lengths is missing"):
        cpuattn.attention_weights(x, pages, block_table=[0])
    with pytest.raises(ValueError, match=r"block_table contains 2 .* \[0, 2\)"):
        cpuattn.attention_weights(x, pages, block_table=[0, 2], key_lengths=4)
    with pytest.raises(ValueError, match=r"key has shape \(3, 4\); with block_table"):
        cpuattn.attention_weights(x, x, block_table=[0], key_lengths=1)
