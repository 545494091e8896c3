"""The teaching reference against the independent oracle and against `cpuattn.attention`."""

import doctest
import math

import numpy as np
import pytest

import oracle
from cpuattn import attention, reference

LENGTHS = [(5, 7), (7, 5), (4, 4), (1, 9)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_queries", "num_keys"), LENGTHS)
def test_three_steps_in_pure_python(num_queries: int, num_keys: int, causal: bool) -> None:
    rng = np.random.default_rng(0)
    query, key, value = (
        rng.standard_normal(shape) for shape in ((num_queries, 3), (num_keys, 3), (num_keys, 2))
    )
    exact = oracle.attend(query, key, value, causal=causal)

    scores = reference.scores(query.tolist(), key.tolist())
    np.testing.assert_allclose(scores, exact.scores, rtol=1e-13, atol=1e-13)
    if causal:
        scores = reference.hide_future(scores)
        np.testing.assert_array_equal(np.isneginf(scores), np.isneginf(exact.masked))
    weights = reference.weights(scores)
    np.testing.assert_allclose(weights, exact.weights, rtol=1e-13, atol=1e-15)
    output = reference.output(weights, value.tolist())
    np.testing.assert_allclose(output, exact.out, rtol=1e-12, atol=1e-14)

    in_one = reference.attention_pure_python(
        query.tolist(), key.tolist(), value.tolist(), causal=causal
    )
    assert in_one == output


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_queries", "num_keys"), LENGTHS)
def test_numpy_reference_with_groups_of_heads(
    num_queries: int, num_keys: int, causal: bool
) -> None:
    rng = np.random.default_rng(1)
    query = rng.standard_normal((2, 6, num_queries, 5))
    key = rng.standard_normal((2, 2, num_keys, 5))
    value = rng.standard_normal((2, 2, num_keys, 4))
    exact = oracle.attend(query, key, value, causal=causal, scale=0.7).out
    out = reference.attention_numpy(query, key, value, causal=causal, scale=0.7)
    np.testing.assert_allclose(out, exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("causal", [False, True])
def test_all_three_agree_on_one_head(causal: bool) -> None:
    rng = np.random.default_rng(2)
    query, key, value = (rng.standard_normal((6, 4)) for _ in range(3))
    pure = reference.attention_pure_python(
        query.tolist(), key.tolist(), value.tolist(), causal=causal
    )
    vectorised = reference.attention_numpy(query, key, value, causal=causal)
    np.testing.assert_allclose(vectorised, pure, rtol=1e-13, atol=1e-15)
    exact = oracle.attend(query, key, value, causal=causal, dtype=np.longdouble).out
    oracle.assert_accurate(attention(query, key, value, causal=causal), exact, vectorised)


def test_attention_is_as_accurate_as_the_numpy_reference() -> None:
    rng = np.random.default_rng(3)
    query = rng.standard_normal((2, 4, 33, 16), np.float32)
    key, value = (rng.standard_normal((2, 2, 50, 16), np.float32) for _ in range(2))
    exact = oracle.attend(query, key, value, causal=True).out
    plain = reference.attention_numpy(query, key, value, causal=True)
    assert plain.dtype == np.float32
    oracle.assert_accurate(attention(query, key, value, causal=True), exact, plain)


def test_a_query_without_keys_gives_zeros() -> None:
    query, key, value = np.ones((3, 2)), np.ones((1, 2)), np.full((1, 2), 5.0)
    expected = [[0, 0], [0, 0], [5, 5]]  # only the last of three queries sees the one key
    assert (
        reference.attention_pure_python(query.tolist(), key.tolist(), value.tolist(), causal=True)
        == expected
    )
    out = reference.attention_numpy(query, key, value, causal=True)
    np.testing.assert_array_equal(out, expected)


def test_huge_negative_scores_are_a_uniform_average() -> None:
    lowest = np.finfo(np.float64).min
    assert reference.softmax([lowest, lowest]) == [0.5, 0.5]
    out = reference.attention_numpy(
        np.array([[lowest]]), np.ones((2, 1)), np.array([[1.0], [3.0]]), scale=1.0
    )
    np.testing.assert_array_equal(out, [[2.0]])


def test_nan_does_not_vanish() -> None:
    assert all(map(math.isnan, reference.softmax([math.nan, 1.0])))
    assert math.isnan(reference.softmax([-math.inf, math.nan])[1])
    out = reference.attention_numpy(np.array([[np.nan], [1.0]]), np.ones((2, 1)), np.ones((2, 1)))
    np.testing.assert_array_equal(out, [[np.nan], [1.0]])


def test_key_and_value_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="value must have one row per key: got 1 for 2 keys"):
        reference.attention_pure_python([[1.0]], [[1.0], [2.0]], [[1.0]])


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(reference)
    assert result.attempted >= 6
    assert result.failed == 0
