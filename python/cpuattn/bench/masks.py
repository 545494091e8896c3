"""What the options of a case mean, as arrays: for the exact result and for engines without them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cpuattn.bench.case import Case


def visible(case: "Case") -> NDArray[np.bool_] | None:
    """Make the mask that says which keys a query sees, (B or 1, 1, Lq or 1, Lk).

    None if every query sees every key.
    """
    mask = np.ones((1, 1, 1, case.keys), bool)
    key = np.arange(case.keys)
    query = np.arange(case.queries)[:, None] + case.keys - case.queries
    if case.causal:
        mask = mask & (key <= query)
    if case.window is not None:
        left, right = case.window
        mask = mask & (key >= query - left) & (key <= query + right)
    if case.key_lengths is not None:
        mask = mask & padding(case)
    if case.documents is not None:
        ids = segments(case)
        mask = mask & (ids[:, None] == ids)
    return None if mask.all() else mask


def added(case: "Case", dtype: np.dtype[Any] | None = None) -> NDArray[Any] | None:
    """Make what is added to the scores, (1, 1 or Hq, Lq, Lk). None if nothing is.

    A wider dtype than the case's query has widens what the case's numbers are.
    """
    dtype = case.query_dtype if dtype is None else dtype
    total = None
    if case.bias:
        total = float_mask(case).astype(dtype)
    if case.alibi:
        query = np.arange(case.queries)[:, None] + case.keys - case.queries
        distance = np.abs(query - np.arange(case.keys)).astype(dtype)
        bias = -alibi_slopes(case)[None, :, None, None].astype(dtype) * distance
        total = bias if total is None else total + bias
    return total


def additive(case: "Case") -> NDArray[Any] | None:
    """Make one ready-made mask of all that hides keys or is added, -inf where hidden.

    (B or 1, Hq or 1, Lq or 1, Lk). None if there is nothing.
    """
    mask, bias = visible(case), added(case)
    if mask is None:
        return bias
    kept = np.zeros(1, case.query_dtype) if bias is None else bias
    return np.where(mask, kept, np.array(-np.inf, case.query_dtype))


def padding(case: "Case") -> NDArray[np.bool_]:
    """Make the mask of the case's key_lengths, (B, 1, 1, Lk)."""
    lengths = np.reshape(case.key_lengths or (case.keys,), (-1, 1, 1, 1))
    return np.arange(case.keys) < lengths


def segments(case: "Case") -> NDArray[np.int64]:
    """Give each token the number of its document, (L,)."""
    return np.repeat(np.arange(len(case.documents or ())), case.documents or ())


def float_mask(case: "Case") -> NDArray[Any]:
    """Make a float mask of normal numbers, (1, 1, Lq, Lk)."""
    shape = 1, 1, case.queries, case.keys
    return np.random.default_rng(1).standard_normal(shape, np.float32).astype(case.query_dtype)


def alibi_slopes(case: "Case") -> NDArray[Any]:
    """Make the slopes of Press et al. (2022) for a power of two of heads, (Hq,)."""
    exponents = np.arange(1, case.heads + 1) * (8 / case.heads)
    slopes: NDArray[Any] = np.exp2(-exponents).astype(case.query_dtype)
    return slopes


def sinks(case: "Case") -> NDArray[Any]:
    """Make one logit for each head, (Hq,)."""
    return np.random.default_rng(2).standard_normal(case.heads, np.float32).astype(case.query_dtype)
