"""The oracle against the formula in plain Python loops, and the rule that compares with it."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from cases import OPTIONS, Shape, make_case
from oracle import Array, assert_accurate, attend

SHAPE = Shape(queries=3, keys=4, head_dim=3, value_dim=2, heads=4, kv_heads=2, batch=2)


def is_visible(where: tuple[int, int, int, int], position: int, options: dict[str, Any]) -> bool:
    b, h, i, j = where
    left, right = options.get("window", (math.inf, math.inf))
    lengths = options.get("key_lengths", [SHAPE.keys] * SHAPE.batch)
    rules = [
        j < lengths[b],
        j <= position or not options.get("causal"),
        position - left <= j <= position + right,
    ]
    if "query_segments" in options:
        rules.append(options["query_segments"][b, i] == options["key_segments"][b, j])
    if "mask" in options:
        rules.append(options["mask"][b, h, i, j])
    if "bias" in options:
        rules.append(options["bias"][h, i, j] > -math.inf)
    return all(rules)


def row_by_loops(
    arrays: tuple[Array, Array, Array], options: dict[str, Any], b: int, h: int, i: int
) -> tuple[list[float], float]:
    """One output row and its log-sum-exp, by the formula."""
    query, key, value = (x[b] for x in arrays)
    kv_head = h // (SHAPE.heads // SHAPE.kv_heads)
    lengths = options.get("key_lengths", [SHAPE.keys] * SHAPE.batch)
    offset = options.get("query_offset", [n - SHAPE.queries for n in lengths])[b]
    exponentials = [0.0] * SHAPE.keys
    for j in range(SHAPE.keys):
        if not is_visible((b, h, i, j), i + offset, options):
            continue
        score = math.fsum(query[h, i] * key[kv_head, j])
        score *= options.get("scale", 1 / math.sqrt(SHAPE.head_dim))
        if "softcap" in options:
            score = options["softcap"] * math.tanh(score / options["softcap"])
        if "bias" in options:
            score += float(options["bias"][h, i, j])
        if "alibi_slopes" in options:
            score -= options["alibi_slopes"][h] * abs(i + offset - j)
        exponentials[j] = math.exp(score)
    total = math.fsum(exponentials) + (math.exp(options["sinks"][h]) if "sinks" in options else 0)
    row = [
        math.fsum(exponentials * value[kv_head, :, d]) / (total or 1.0)
        for d in range(SHAPE.value_dim or 0)
    ]
    return row, math.log(total) if total else -math.inf


@pytest.mark.parametrize("names", [(), *itertools.combinations(OPTIONS, 2), tuple(OPTIONS)])
def test_oracle_is_the_formula(names: tuple[str, ...]) -> None:
    case = make_case(SHAPE, np.float64, names)
    exact = attend(*case.arrays, dtype=np.float64, **case.options)
    for b, h, i in np.ndindex(exact.lse.shape):
        out, lse = row_by_loops(case.arrays, case.options, b, h, i)
        np.testing.assert_allclose(exact.out[b, h, i], out, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(exact.lse[b, h, i], lse, rtol=1e-13, atol=1e-15)


def test_masked_nan_stays_out_and_visible_nan_stays_in() -> None:
    query, key, value = Shape(queries=2, keys=3, heads=1, kv_heads=1, batch=1).arrays(
        np.random.default_rng(0), np.float64
    )
    value[0, 0, 2, 5] = np.nan
    out = attend(query, key, value, causal=True, query_offset=1).out
    rows, columns = np.nonzero(np.isnan(out[0, 0]))
    assert rows.tolist() == [1]
    assert columns.tolist() == [5]
    key[0, 0, 2, 0] = np.nan
    out = attend(query, key, value, causal=True, query_offset=1).out
    assert np.isnan(out[0, 0]).all(axis=-1).tolist() == [False, True]
    assert np.isfinite(out[0, 0, 0]).all()


def test_accuracy_rule_refuses() -> None:
    exact = np.array([1.0, -2.0, 3.0])
    plain = exact.astype(np.float32)
    assert_accurate(plain.copy(), exact, plain)
    for wrong in ([1.0, -2.0, 3.00001], [1.0, -2.0, np.nan], [1.0, np.inf, 3.0]):
        with pytest.raises(AssertionError):
            assert_accurate(np.array(wrong, np.float32), exact, plain)
    hidden_nan = np.array([1.0, np.nan, 3.0])
    with pytest.raises(AssertionError):
        assert_accurate(plain, hidden_nan, plain)
    with pytest.raises(AssertionError):
        assert_accurate(exact, exact, plain)


def test_the_oracle_remembers_what_arguments_hold() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    first = attend(x, x, x, sinks=[0.5, 1.5])
    assert attend(x.copy(), x, x, sinks=[0.5, 1.5]) is first
    assert not first.out.flags.writeable
    others = [
        attend(x, x, x, sinks=[0.5, 1.25]),
        attend(x, x, x, sinks=[0.5, 1.5], causal=True),
        attend(x, x, x, sinks=[0.5, 1.5], dtype=np.float32),
        attend(x[:, :2], x, x, sinks=[0.5, 1.5]),
    ]
    x[1, 0, 0] += 1
    others.append(attend(x, x, x, sinks=[0.5, 1.5]))
    assert all(other is not first for other in others)
    assert abs(others[-1].out - first.out).max() > 0.01
