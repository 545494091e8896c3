"""Attention as a textbook writes it: three named steps, in plain Python and in NumPy.

Every query row is compared with every key row, which gives the **scores**. The softmax of a row of
scores gives its **weights**: positive numbers that sum to 1. The **output** row is the average of
the value rows under those weights::

    scores  = query · keyᵀ / √D        (Lq, Lk)
    weights = softmax of each row      (Lq, Lk)
    output  = weights · value          (Lq, Dv)

Lq and Lk are the lengths of query and key, D is the head_dim of query and key, Dv of value. These
functions are made to be read and to check results with. They keep all Lq * Lk scores, which
`cpuattn.attention` never does.

Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.2.1.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = Sequence[Sequence[float]]

__all__ = [
    "attention_numpy",
    "attention_pure_python",
    "hide_future",
    "output",
    "scores",
    "softmax",
    "weights",
]


def scores(query: Matrix, key: Matrix, scale: float | None = None) -> list[list[float]]:
    """Step 1: the scaled dot product of every query row with every key row.

    Parameters
    ----------
    query : (Lq, D) nested sequence of float
        One row per query.
    key : (Lk, D) nested sequence of float
        One row per key.
    scale : float, optional
        1/√D by default.

    Returns
    -------
    list of list of float
        (Lq, Lk).

    Examples
    --------
    >>> scores([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], scale=1.0)
    [[1.0, 2.0, 3.0]]
    """
    if scale is None:
        scale = 1 / math.sqrt(len(query[0]) or 1) if query else 1.0
    return [[scale * sum(a * b for a, b in zip(q, k, strict=True)) for k in key] for q in query]


def hide_future(scores: Matrix) -> list[list[float]]:
    """Set the scores of keys that come after their query to -inf; the last row sees every key.

    Parameters
    ----------
    scores : (Lq, Lk) nested sequence of float
        One row per query.

    Returns
    -------
    list of list of float
        (Lq, Lk).
    """
    return [
        [s if j <= i + len(row) - len(scores) else -math.inf for j, s in enumerate(row)]
        for i, row in enumerate(scores)
    ]


def softmax(row: Sequence[float]) -> list[float]:
    """Compute the weights of one row of scores: exp(score), divided by the sum of the row.

    The largest score is subtracted first. That changes no weight, because it cancels in the
    division, and no exp can overflow. A row that sees no key (all -inf, or empty) has zero weights.

    Parameters
    ----------
    row : (Lk,) sequence of float
        The scores of one query.

    Returns
    -------
    list of float
        (Lk,); they sum to 1, or are all 0.

    Examples
    --------
    >>> softmax([1000.0, 1000.0, -math.inf])
    [0.5, 0.5, 0.0]
    """
    if all(score == -math.inf for score in row):
        return [0.0] * len(row)
    largest = max(row)
    exponentials = [math.exp(score - largest) for score in row]
    total = sum(exponentials)
    return [e / total for e in exponentials]


def weights(scores: Matrix) -> list[list[float]]:
    """Step 2: the softmax of every row of scores.

    Parameters
    ----------
    scores : (Lq, Lk) nested sequence of float
        One row per query.

    Returns
    -------
    list of list of float
        (Lq, Lk).

    Examples
    --------
    >>> weights([[0.0, 0.0], [0.0, -math.inf]])
    [[0.5, 0.5], [1.0, 0.0]]
    """
    return [softmax(row) for row in scores]


def output(weights: Matrix, value: Matrix) -> list[list[float]]:
    """Step 3: every output row is the sum of the value rows, each times its weight.

    Parameters
    ----------
    weights : (Lq, Lk) nested sequence of float
        One row per query.
    value : (Lk, Dv) nested sequence of float
        One row per key.

    Returns
    -------
    list of list of float
        (Lq, Dv).

    Examples
    --------
    >>> output([[0.5, 0.5]], [[1.0, 2.0], [3.0, 6.0]])
    [[2.0, 4.0]]
    """
    columns = list(zip(*value, strict=True))
    return [
        [sum(w * v for w, v in zip(row, column, strict=True)) for column in columns]
        for row in weights
    ]


def attention_pure_python(
    query: Matrix,
    key: Matrix,
    value: Matrix,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> list[list[float]]:
    """One head of attention on nested lists, without any library.

    Parameters
    ----------
    query : (Lq, D) nested sequence of float
        One row per query.
    key : (Lk, D) nested sequence of float
        One row per key.
    value : (Lk, Dv) nested sequence of float
        One row per key.
    causal : bool, default False
        Query i sees key j only if j <= i + Lk - Lq: the last query sees every key.
    scale : float, optional
        Factor of the scores, 1/√D by default.

    Returns
    -------
    list of list of float
        (Lq, Dv); zeros where a query sees no key.

    Raises
    ------
    ValueError
        If the rows do not have the same length, or key and value not the same number of rows.

    Notes
    -----
    A hidden key has weight 0 and is still multiplied, so a NaN or infinite value behind it gives
    NaN here. `cpuattn.attention` leaves hidden values out.

    Examples
    --------
    The query is as similar to one key as to the other, so its output is their values' average:

    >>> attention_pure_python([[1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[10.0], [20.0]])
    [[15.0]]
    """
    if len(key) != len(value):
        raise ValueError(f"value must have one row per key: got {len(value)} for {len(key)} keys")
    similarity = scores(query, key, scale)
    if causal:
        similarity = hide_future(similarity)
    return output(weights(similarity), value)


def attention_numpy(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    *,
    causal: bool = False,
    scale: float | None = None,
) -> NDArray[Any]:
    """Attention over any number of heads and batch entries in a few lines of NumPy.

    Parameters
    ----------
    query : (..., Hq, Lq, D) array of float, also (Lq, D)
        Of any float dtype that NumPy multiplies.
    key : (..., Hkv, Lk, D) array of float, also (Lk, D)
        Hq is a multiple of Hkv: query head h reads key head h // (Hq / Hkv).
    value : (..., Hkv, Lk, Dv) array of float, also (Lk, Dv)
        One row per key.
    causal : bool, default False
        Query i sees key j only if j <= i + Lk - Lq: the last query sees every key.
    scale : float, optional
        Factor of the scores, 1/√D by default.

    Returns
    -------
    ndarray
        (..., Hq, Lq, Dv) in the dtype of the inputs; zeros where a query sees no key.

    Notes
    -----
    A NaN or infinite value behind a hidden key gives NaN, as in `attention_pure_python`.

    Examples
    --------
    >>> query, key = np.ones((1, 2)), np.eye(2)
    >>> attention_numpy(query, key, np.array([[10.0], [20.0]]))
    array([[15.]])
    """
    if query.ndim > 2 and key.ndim > 2:
        group = query.shape[-3] // key.shape[-3]
        key, value = np.repeat(key, group, axis=-3), np.repeat(value, group, axis=-3)
    scale = 1 / math.sqrt(query.shape[-1] or 1) if scale is None else scale
    scores = scale * (query @ key.swapaxes(-1, -2))
    if causal:
        rows, columns = scores.shape[-2:]
        scores[..., ~np.tri(rows, columns, columns - rows, dtype=bool)] = -np.inf
    lowest = np.finfo(scores.dtype).min  # instead of -inf, the largest score of a row without keys
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=lowest))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    output: NDArray[Any] = weights @ value
    return output
