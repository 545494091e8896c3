"""Rotary embedding in an attention layer: positions go on from those in its cache."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._arrays import as_array, as_integers
from cpuattn._rotary import rotary_embedding
from cpuattn.layers.caches import LayerCache

Rope: TypeAlias = (
    tuple[ArrayLike, ArrayLike]
    | tuple[ArrayLike, ArrayLike, bool]
    | tuple[ArrayLike, ArrayLike, bool, int | None]
)


def check_rope(rope: Rope) -> None:
    """Raise ValueError unless there are as many arguments as `rotary_embedding` takes."""
    if len(rope) not in (2, 3, 4):
        raise ValueError(
            f"rope must be (cos, sin), with interleaved and rotary_dim behind, got {len(rope)}"
        )


def rotate(
    query: NDArray[Any],
    key: NDArray[Any],
    rope: Rope,
    cache: LayerCache | None,
    lengths: ArrayLike | None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return query and key heads, rotated by the angles of their positions."""
    cos, sin = as_array(rope[0], "cos"), as_array(rope[1], "sin")
    positions = None
    if cache is not None and cos.ndim == 2:
        tokens = np.arange(query.shape[-2])
        if lengths is not None:
            # Padding repeats the last position, which the table surely has.
            counts = as_integers(lengths, "key_lengths").reshape(-1, 1)
            tokens = np.minimum(tokens, counts - 1)
        positions = np.maximum(cache.lengths[:, None] + tokens, 0)
    options: dict[str, Any] = {
        "positions": positions,
        "interleaved": len(rope) > 2 and bool(rope[2]),
        "rotary_dim": rope[3] if len(rope) == 4 else None,
    }
    return rotary_embedding(query, cos, sin, **options), rotary_embedding(key, cos, sin, **options)
