"""Tables of cosines and sines: a column for each angle, or two as Hugging Face has them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpuattn._checks import check_size

Array = NDArray[Any]


def one_column_per_angle(
    cos: Array, sin: Array, *, head_dim: int, rotary_dim: int | None, interleaved: bool
) -> tuple[Array, Array]:
    """Return (..., R/2) tables from ones of R/2 or of R columns, or raise ValueError.

    Hugging Face's are ``cat(angles, angles)``, or each angle twice in a row for interleaved pairs.
    Whether a narrow table is such a one, its width cannot tell. Its values could, but not for every
    choice of positions: it is refused if they look like that and `rotary_dim` is not given.
    """
    columns = cos.shape[-1]
    if rotary_dim is not None:
        rotary_dim = check_size("rotary_dim", rotary_dim, at_least=0)
        if rotary_dim % 2 or rotary_dim > head_dim or columns not in (rotary_dim, rotary_dim // 2):
            raise ValueError(
                f"rotary_dim must be even, at most the {head_dim} features of x, and the columns "
                f"of cos or twice as many, got {rotary_dim} for {columns} columns"
            )
        doubled = columns == rotary_dim > 0
    else:
        doubled = 2 * columns > head_dim
    found = None if columns > head_dim else _distinct(cos, sin, interleaved=interleaved)
    if doubled and found is None:
        order = "twice in a row or in equal halves" if interleaved else "in equal halves"
        raise ValueError(
            f"cos has {columns} angles for pairs of features, but x has only {head_dim} features; "
            f"a table of a column for each feature must hold every angle twice, {order}"
        )
    if doubled and found is not None:
        return found
    if rotary_dim is None and found is not None and not (_constant(cos) and _constant(sin)):
        raise ValueError(
            f"cos and sin hold each of their {columns} columns twice, as Hugging Face's tables do: "
            f"give rotary_dim={columns} if so, or rotary_dim={2 * columns} to turn as many pairs"
        )
    return cos, sin


def _distinct(cos: Array, sin: Array, *, interleaved: bool) -> tuple[Array, Array] | None:
    """Return half of the columns if the other half repeats them; None if they do not."""
    columns = cos.shape[-1]
    if columns == 0 or columns % 2:
        return None
    halves = slice(columns // 2), slice(columns // 2, None)
    in_a_row = slice(0, None, 2), slice(1, None, 2)
    for kept, others in (in_a_row, halves) if interleaved else (halves,):
        if all(np.array_equal(t[..., kept], t[..., others]) for t in (cos, sin)):
            return cos[..., kept], sin[..., kept]
    return None


def _constant(table: Array) -> bool:
    """Whether all angles are the same, as at position 0: no sign of repeated columns."""
    return not table.size or bool((table == table.flat[0]).all())
