"""Rotary position embedding: a token's position is an angle by which pairs of its features rotate.

Sources: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021; the
meaning of the arguments follows the ONNX operator RotaryEmbedding (opset 23).
"""

from __future__ import annotations  # help() then shows ArrayLike, and not what it stands for

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._arrays import as_array, as_integers
from cpuattn._dtypes import check_float, one_rounding
from cpuattn._rotary_tables import one_column_per_angle


def rotary_embedding(
    x: ArrayLike,
    cos: ArrayLike,
    sin: ArrayLike,
    *,
    positions: ArrayLike | None = None,
    interleaved: bool = False,
    rotary_dim: int | None = None,
) -> NDArray[Any]:
    """Rotate each pair of features of query or key by the angles of its position.

    The pair (a, b) becomes (a·cos - b·sin, a·sin + b·cos). The score of a query and a key that were
    both rotated depends on the difference of their positions only.

    Parameters
    ----------
    x : (..., H, L, D) or (L, D) array of float32, float64, float16 or bfloat16
        Query or key; H heads, L positions, D head_dim. 16-bit elements are rotated in float32,
        or in float64 if `cos` and `sin` are, and rounded once.
    cos, sin : (max_positions, R/2) or (..., L, R/2) array of such a dtype
        Cosine and sine of the angles. Two axes are a table with one row per position. More axes
        hold the rows of the L positions of each batch entry directly; the leading ones broadcast
        with the axes of `x` before H. R <= D features are rotated, the other D - R stay unchanged.
        Tables of R columns, which hold each angle twice as Hugging Face's do, are taken too: they
        are told by their width if R > D/2, else by `rotary_dim`.
    positions : int or (L,) or (..., L) array of int, optional
        Rows of the table to use. An int is the position of the first of L consecutive ones, and
        the default is 0. Leading axes broadcast with the axes of `x` before H, as (B, L) does with
        (B, H, L, D).
    interleaved : bool, default False
        False: feature i < R/2 is paired with feature i + R/2 (GPT-NeoX, Hugging Face).
        True: feature 2i is paired with feature 2i + 1 (RoFormer, GPT-J, GGUF files).
    rotary_dim : int, optional
        R. By default twice the columns of `cos` and `sin`, or their number if that exceeds D.

    Returns
    -------
    ndarray
        A new array with the shape and the dtype of `x`.

    Raises
    ------
    TypeError
        If `x`, `cos` or `sin` is of another dtype, or `positions` or `rotary_dim` not integer.
    ValueError
        If shapes do not fit, R > D, or a position is outside the table. If the columns of `cos` and
        `sin` come in equal pairs, as Hugging Face's do, but are at most D/2 and `rotary_dim` is not
        given: they may be the angles of as many features, or of twice as many.

    Examples
    --------
    >>> import numpy as np
    >>> from cpuattn import rotary_embedding
    >>> angles = np.arange(4)[:, None] * np.pi / 2  # a quarter turn per position
    >>> x = np.ones((1, 3, 2))
    >>> rotary_embedding(x, np.cos(angles), np.sin(angles)).round()
    array([[[ 1.,  1.],
            [-1.,  1.],
            [-1., -1.]]])
    """
    array = as_array(x, "x")
    c, s = _cos_and_sin(array, as_array(cos, "cos"), as_array(sin, "sin"), positions)
    c, s = one_column_per_angle(
        c, s, head_dim=array.shape[-1], rotary_dim=rotary_dim, interleaved=interleaved
    )
    half = c.shape[-1]
    if interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        first, second = slice(half), slice(half, 2 * half)
    wide = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    a, b = wide[..., first], wide[..., second]
    out = np.empty_like(array, subok=False)
    out[..., first] = one_rounding(a * c - b * s, out.dtype)
    out[..., second] = one_rounding(a * s + b * c, out.dtype)
    out[..., 2 * half :] = array[..., 2 * half :]
    return out


def _cos_and_sin(
    x: NDArray[Any], cos: NDArray[Any], sin: NDArray[Any], positions: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return cos and sin of every position of x, as (..., 1, L, R/2)."""
    _check(x, cos, sin)
    if cos.ndim == 2:
        rows = _rows(positions, x.shape[-2], len(cos))
        cos, sin = cos[rows], sin[rows]
    elif positions is not None:
        raise ValueError(
            f"positions choose rows of a (max_positions, R/2) table, but cos has shape {cos.shape}"
        )
    if not _fits(cos.shape[:-1], (*x.shape[:-3], x.shape[-2])):
        name = "cos" if positions is None else "positions"
        got = cos.shape if positions is None else cos.shape[:-1]
        raise ValueError(f"{name} of shape {got} does not fit x of shape {x.shape}")
    if x.ndim > 2:
        cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    return cos, sin


def _check(x: NDArray[Any], cos: NDArray[Any], sin: NDArray[Any]) -> None:
    for name, array in (("x", x), ("cos", cos), ("sin", sin)):
        check_float(name, array)
    if x.ndim < 2:
        raise ValueError(f"x must be (..., H, L, D) or (L, D), got shape {x.shape}")
    if cos.ndim < 2:
        raise ValueError(f"cos must be (max_positions, R/2) or (..., L, R/2), got {cos.shape}")
    if cos.shape != sin.shape:
        raise ValueError(f"sin must have the shape of cos, {cos.shape}, got {sin.shape}")


def _rows(positions: ArrayLike | None, length: int, num_rows: int) -> NDArray[np.int64]:
    """Return the rows of the table that positions mean, checked."""
    rows = as_integers(0 if positions is None else positions, "positions")
    if rows.ndim == 0:
        rows = rows + np.arange(length)
    if rows.size and not 0 <= rows.min() <= rows.max() < num_rows:
        raise ValueError(
            f"positions must be in [0, {num_rows}), the rows of cos and sin, "
            f"got {rows.min()} to {rows.max()}"
        )
    return rows


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether (..., L) broadcasts to target, (..., L) too, with L itself alike."""
    try:
        return shape[-1] == target[-1] and np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False
