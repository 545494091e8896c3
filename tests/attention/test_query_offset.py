"""Offsets of every size: which keys a row sees is decided as in unbounded integers."""

from typing import Any

import numpy as np
import pytest

import cpuattn

pytestmark = pytest.mark.usefixtures("isa")

KEYS = 70
LARGEST = 2**63 - 1
OFFSETS = [
    *(-(2**63), -(2**62), -(2**60), -(2**60) + 100, -(2**59), -75, 0, 30),
    *(2**59, 2**60 - 100, 2**60 - 1, 2**60, 2**61, 2**62, 2**62 + 7, 2**63 - 40, LARGEST),
]
# No side, no keys, some keys, and what is only just near enough to a far offset.
SIDES = [None, 0, 5, 2**60, 2**62, 2**62 + 20, 2**63 - 20, LARGEST]


def expected(
    rows: int, offset: int, left: int | None, right: int | None, length: int = KEYS
) -> np.ndarray[Any, Any]:
    """Return which keys a row sees, by Python's integers."""
    sees = np.zeros((rows, KEYS), bool)
    for i in range(rows):
        first = 0 if left is None else max(i + offset - left, 0)
        last = length - 1 if right is None else min(i + offset + right, length - 1)
        sees[i, min(first, KEYS) : max(last + 1, 0)] = True
    return sees


@pytest.mark.parametrize("rows", [2, 20])
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_far_offset_hides_the_same_keys_as_unbounded_integers(rows: int, offset: int) -> None:
    query, key = np.zeros((rows, 1), np.float32), np.zeros((KEYS, 1), np.float32)
    value = np.eye(KEYS, dtype=np.float32)
    for left in SIDES:
        for right in SIDES:
            options: dict[str, Any] = {"query_offset": offset, "window": (left, right)}
            out, lse = cpuattn.attention(query, key, value, return_lse=True, **options)
            sees = expected(rows, offset, left, right)
            np.testing.assert_array_equal(out > 0, sees, str(options))
            np.testing.assert_array_equal(lse > -np.inf, sees.any(axis=1), str(options))


@pytest.mark.parametrize("rows", [2, 20])
@pytest.mark.parametrize("offset", OFFSETS)
def test_far_offsets_with_causal_lengths_and_segments(rows: int, offset: int) -> None:
    query, key = np.zeros((rows, 1), np.float32), np.zeros((KEYS, 1), np.float32)
    value = np.eye(KEYS, dtype=np.float32)
    ids = np.arange(KEYS) // 16
    options: dict[str, Any] = {
        "query_offset": offset,
        "causal": True,
        "window": (2**62, None),
        "key_lengths": 61,
        "query_segments": np.full(rows, 2),
        "key_segments": ids,
    }
    sees = expected(rows, offset, 2**62, 0, 61) & (ids == 2)
    np.testing.assert_array_equal(cpuattn.attention(query, key, value, **options) > 0, sees)
    weights = cpuattn.attention_weights(query, key, **options)
    np.testing.assert_array_equal(weights > 0, sees)


@pytest.mark.parametrize("offset", OFFSETS)
def test_far_offsets_of_packed_sequences(offset: int) -> None:
    ends = np.array([0, 1, 31])  # one sequence for each kernel
    query, key = np.zeros((31, 1, 1), np.float32), np.zeros((2 * KEYS, 1, 1), np.float32)
    value = np.tile(np.eye(KEYS, dtype=np.float32), (2, 1))[:, None]
    out = cpuattn.attention_varlen(
        *(query, key, value, ends, np.array([0, KEYS, 2 * KEYS])),
        causal=True,
        query_offset=[offset, offset],
    )
    sees = np.concatenate([expected(n, offset, None, 0) for n in (1, 30)])
    np.testing.assert_array_equal(out[:, 0] > 0, sees)


@pytest.mark.parametrize("rows", [2, 20])
@pytest.mark.parametrize("offset", OFFSETS)
def test_alibi_of_a_far_offset(rows: int, offset: int, dtype: Any) -> None:
    query, key = np.zeros((1, rows, 1), dtype), np.zeros((1, KEYS, 1), dtype)
    slope = 2.0**-62
    options: dict[str, Any] = {"query_offset": offset, "alibi_slopes": [slope]}
    distance = np.array([[abs(i + offset - j) for j in range(KEYS)] for i in range(rows)], float)
    masked = cpuattn.attention_weights(query, key, stage="masked", **options)[0]
    np.testing.assert_allclose(masked, -slope * distance, rtol=4 * float(np.finfo(dtype).eps))
    exact = np.exp(-slope * (distance - distance.min(axis=1, keepdims=True)))
    value = np.linspace(1, 2, KEYS, dtype=dtype)[None, :, None]
    out = cpuattn.attention(query, key, value, **options)[0, :, 0]
    np.testing.assert_allclose(out, exact @ value[0, :, 0] / exact.sum(axis=1), rtol=1e-5)
