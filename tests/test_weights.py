"""attention_weights: the matrix of every stage, where someone asks for it."""

import itertools
from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import OPTIONS, Shape, case_of, make_case
from oracle import Dtype, assert_accurate, eps

pytestmark = pytest.mark.usefixtures("isa")

STAGES: tuple[Any, ...] = ("scores", "softcapped", "masked", "weights")
SHAPES = (
    Shape(queries=70, keys=130, head_dim=9, heads=4),
    Shape(queries=1, keys=600, heads=4, kv_heads=1),
    Shape(queries=17, keys=5, batch=3),
)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.queries}x{s.keys}")
@pytest.mark.parametrize(
    "names",
    [(), *((name,) for name in OPTIONS), ("softcap", "bias", "sinks"), tuple(OPTIONS)],
    ids="+".join,
)
def test_stages(names: tuple[str, ...], shape: Shape, stage: Any, dtype: Dtype) -> None:
    case = make_case(shape, dtype, names)
    query, key, _ = case.arrays
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
