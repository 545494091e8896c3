"""Rotary embedding against multiplication by complex numbers of modulus 1."""

import doctest
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from cpuattn import _rotary, rotary_embedding

Array = NDArray[Any]


def tables(num_positions: int, pairs: int) -> tuple[Array, Array]:
    angles = np.arange(num_positions)[:, None] * 100.0 ** -(np.arange(pairs) / pairs)
    return np.cos(angles), np.sin(angles)


def random(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape)


def by_complex_numbers(x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    """Turn x (..., L, D) by cos + i·sin (L, R/2): features become complex numbers and back."""
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    shape = (pairs, 2) if interleaved else (2, pairs)
    a, b = np.moveaxis(turned.reshape(*x.shape[:-1], *shape), -1 if interleaved else -2, 0)
    z = (a + 1j * b) * (cos + 1j * sin)
    parts = np.stack([z.real, z.imag], axis=-1 if interleaved else -2)
    return np.concatenate([parts.reshape(turned.shape), rest], axis=-1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "pairs"), [(8, 4), (8, 3), (15, 7), (2, 1), (4, 0)])
def test_pairs_turn_like_complex_numbers(head_dim: int, pairs: int, interleaved: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 5, head_dim))
    cos, sin = tables(5, pairs)
    out = rotary_embedding(x, cos, sin, interleaved=interleaved)
    # Both sides round three times, relative to the length of the vector: a single coordinate may
    # come out of a difference that cancels.
    bound = 3 * np.finfo(x.dtype).eps * np.linalg.norm(x, axis=-1, keepdims=True)
    assert (np.abs(out - by_complex_numbers(x, cos, sin, interleaved)) <= bound).all()


@pytest.mark.parametrize("tables_dtype", [np.float64, np.float32, "same"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_numbers_are_rounded_once(dtype: Any, tables_dtype: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 50, 9)).astype(dtype)
    cos, sin = (t.astype(dtype if tables_dtype == "same" else tables_dtype) for t in tables(50, 4))
    out = rotary_embedding(x, cos, sin)
    assert out.dtype == dtype
    x64, cos64, sin64 = (a.astype(np.float64) for a in (x, cos, sin))
    exact = by_complex_numbers(x64, cos64, sin64, interleaved=False)
    # Half a unit of the last place, but for what float32 adds where two terms cancel.
    slack = 4 * np.finfo(np.float32).eps * np.linalg.norm(exact, axis=-1, keepdims=True)
    unit = np.spacing(np.abs(out)).astype(np.float64)
    assert (np.abs(out.astype(np.float64) - exact) <= unit / 2 + slack).all()
    np.testing.assert_array_equal(out[..., 8:], x[..., 8:])


def test_which_features_are_pairs() -> None:
    x, cos, sin = np.array([[1.0, 2, 3, 4, 5]]), np.zeros((1, 2)), np.ones((1, 2))
    np.testing.assert_array_equal(rotary_embedding(x, cos, sin), [[-3, -4, 1, 2, 5]])
    out = rotary_embedding(x, cos, sin, interleaved=True)
    np.testing.assert_array_equal(out, [[-2, 1, -4, 3, 5]])


def test_scores_depend_on_the_distance_only() -> None:
    rng = np.random.default_rng(1)
    query, key = rng.standard_normal((2, 1, 1, 8))
    cos, sin = tables(50, 4)

    def score(i: int, j: int) -> float:
        q, k = (rotary_embedding(x, cos, sin, positions=p) for x, p in ((query, i), (key, j)))
        return float((q @ k.swapaxes(-1, -2)).item())

    assert score(40, 33) == pytest.approx(score(7, 0), rel=1e-12)
    assert score(40, 33) != pytest.approx(score(7, 1), rel=1e-3)


def test_every_way_to_give_positions() -> None:
    x = np.random.default_rng(2).standard_normal((2, 3, 4, 6))
    cos, sin = tables(20, 3)
    rows = np.array([[5, 6, 7, 8], [0, 1, 2, 3]])
    expected = np.stack(
        [by_complex_numbers(x[b], cos[rows[b]], sin[rows[b]], interleaved=False) for b in (0, 1)]
    )
    by_rows = rotary_embedding(x, cos, sin, positions=rows)
    np.testing.assert_allclose(by_rows, expected, rtol=1e-14)
    direct = rotary_embedding(x, cos[rows], sin[rows])
    np.testing.assert_array_equal(direct, by_rows)
    for b, start in ((0, 5), (1, 0)):
        from_start = rotary_embedding(x[b], cos, sin, positions=start)
        np.testing.assert_array_equal(from_start, by_rows[b])
        listed = rotary_embedding(x[b], cos, sin, positions=rows[b].tolist())
        np.testing.assert_array_equal(listed, by_rows[b])
    np.testing.assert_array_equal(rotary_embedding(x[1], cos, sin), by_rows[1])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("pairs", [4, 3])  # of 8 features: 3/4 of them cannot be twice as many
def test_tables_of_hugging_face(pairs: int, interleaved: bool) -> None:
    """Each angle stands twice in them: ``cat(angles, angles)``, or twice in a row."""
    x, half = random(2, 3, 5, 8), tables(5, pairs)
    expected = rotary_embedding(x, *half, interleaved=interleaved)
    halves = [np.concatenate([t, t], axis=-1) for t in half]
    in_a_row = [np.repeat(t, 2, axis=-1) for t in half]
    for whole in (halves, in_a_row) if interleaved else (halves,):
        for dim in (None, 2 * pairs):
            got = rotary_embedding(x, *whole, interleaved=interleaved, rotary_dim=dim)
            np.testing.assert_array_equal(got, expected)
        batched = [np.stack([t, t]) for t in whole]
        got = rotary_embedding(x, *batched, interleaved=interleaved)
        np.testing.assert_array_equal(got, expected)
    if not interleaved:
        with pytest.raises(ValueError, match="every angle twice, in equal halves"):
            rotary_embedding(x, *in_a_row)
    with pytest.raises(
        ValueError, match=rf"cos has {2 * pairs} angles .* has only 8 features; .* twice"
    ):
        rotary_embedding(x, *tables(5, 2 * pairs), interleaved=interleaved)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("pairs", [1, 2])
def test_partial_tables_of_hugging_face_are_never_misread(pairs: int, interleaved: bool) -> None:
    x, half = random(2, 3, 5, 8), tables(5, pairs)
    whole = [np.concatenate([t, t], axis=-1) for t in half]
    with pytest.raises(ValueError, match=f"rotary_dim={2 * pairs} if so"):
        rotary_embedding(x, *whole, interleaved=interleaved)
    given: dict[str, Any] = {"interleaved": interleaved}
    expected = rotary_embedding(x, *half, **given)
    np.testing.assert_array_equal(
        rotary_embedding(x, *whole, rotary_dim=2 * pairs, **given), expected
    )
    np.testing.assert_array_equal(
        rotary_embedding(x, *half, rotary_dim=2 * pairs, **given), expected
    )
    # The same columns may mean twice as many features, of two kinds that turn alike.
    both = rotary_embedding(x, *whole, rotary_dim=4 * pairs, **given)
    turned = by_complex_numbers(x, whole[0], whole[1], interleaved)
    np.testing.assert_allclose(both, turned, rtol=1e-12, atol=1e-14)


def test_the_same_angle_everywhere_is_no_table_of_hugging_face() -> None:
    x = random(1, 3, 1, 8)
    cos, sin = np.full((1, 2), 0.6), np.full((1, 2), 0.8)
    np.testing.assert_allclose(
        rotary_embedding(x, cos, sin), by_complex_numbers(x, cos, sin, False), rtol=1e-12
    )


def test_the_result_is_new_and_has_the_dtype_of_x() -> None:
    packed = np.random.default_rng(3).standard_normal((2, 5, 3, 8), np.float32)
    x = packed.swapaxes(1, 2)
    before = packed.copy()
    cos, sin = tables(5, 4)
    out = rotary_embedding(x, cos, sin)
    assert out.dtype == np.float32
    assert not np.shares_memory(out, packed)
    np.testing.assert_array_equal(packed, before)
    np.testing.assert_array_equal(out, rotary_embedding(np.ascontiguousarray(x), cos, sin))


COS, SIN = tables(4, 2)
X = np.zeros((2, 3, 4, 4))
BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, "x must be float32, .* or bfloat16, got int64", {"x": X.astype(np.int64)}),
    (TypeError, "x is of type list", {"x": X.tolist()}),
    (TypeError, "sin must be float32, .* got complex128", {"sin": SIN * 1j}),
    (TypeError, "positions has dtype float64; it must be integers", {"positions": 1.0}),
    (ValueError, r"x must be .* got shape \(4,\)", {"x": X[0, 0, 0]}),
    (ValueError, r"cos must be .* got \(2,\)", {"cos": COS[0], "sin": SIN[0]}),
    (ValueError, "sin must have the shape of cos", {"sin": SIN[:3]}),
    (ValueError, "cos has 2 angles .* but x has only 3 features", {"x": X[..., :3]}),
    (ValueError, r"positions must be in \[0, 4\).* got -1 to 2", {"positions": -1}),
    (ValueError, r"positions must be in \[0, 4\).* got 1 to 4", {"positions": 1}),
    (ValueError, r"positions of shape \(3,\) does not fit", {"positions": [0, 1, 2]}),
    (ValueError, r"positions of shape \(1,\) does not fit", {"positions": [0]}),
    (ValueError, r"positions of shape \(3, 4\) does not fit", {"positions": [[0] * 4] * 3}),
    (ValueError, "rotary_dim must be even, at most the 4 .* got 3", {"rotary_dim": 3}),
    (ValueError, "rotary_dim must be even, at most the 4 .* got 8", {"rotary_dim": 8}),
    (ValueError, "rotary_dim must be at least 0, got -2", {"rotary_dim": -2}),
    (TypeError, "rotary_dim must be an integer, got 2.0", {"rotary_dim": 2.0}),
    (ValueError, "positions choose rows", {"cos": COS[None], "sin": SIN[None], "positions": 0}),
    (
        ValueError,
        "cos of shape .* does not fit",
        {"cos": np.stack([COS] * 3), "sin": np.stack([SIN] * 3)},
    ),
]


@pytest.mark.parametrize(("error", "message", "changed"), BAD)
def test_errors_name_the_argument(
    error: type[Exception], message: str, changed: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        rotary_embedding(**{"x": X, "cos": COS, "sin": SIN, **changed})


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(_rotary)
    assert result.attempted >= 4
    assert result.failed == 0
