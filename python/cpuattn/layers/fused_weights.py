"""Matrices that hold the weights of query, key and value together, and how they are taken apart."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cpuattn.layers.weight_names import FUSED, INPUTS

Layout: TypeAlias = Literal["concatenated", "grouped", "conv1d"]
LAYOUTS = ("concatenated", "grouped", "conv1d")


class Entry(NamedTuple):
    """An array of a state, and the name that it has there."""

    given_name: str
    array: NDArray[Any]


def is_fused(name: str) -> bool:
    """Whether an entry of that canonical name holds query, key and value."""
    return name.rpartition(".")[0] in FUSED


def choose_layout(
    given: Layout | None, state: Mapping[str, Entry], rows: int, kv_heads: int
) -> str:
    """Return the layout of a state of canonical names; ValueError if it must be given and is not.

    `rows` count query, key and value together.
    """
    fused = sorted(filter(is_fused, state), reverse=True)  # a weight before its bias
    if given is not None:
        if given not in LAYOUTS:
            raise ValueError(f"layout must be one of {LAYOUTS} or None, got {given!r}")
        if not fused:
            raise ValueError(f"layout is {given!r}, but state holds no fused matrix")
        return given
    if not fused:
        return "concatenated"
    layout = FUSED[fused[0].rpartition(".")[0]]
    # CodeGen's are in an order of their own, and have its name; Phi-3's come with an o_proj.
    if "qkv_proj.weight" in state and "out_proj.weight" in state and "q_norm.weight" not in state:
        layout = "" if state["out_proj.weight"].given_name.endswith("out_proj.weight") else layout
    if not layout:
        layout = _of_shape(state.get("c_attn.weight"), rows, kv_heads)
    if not layout:
        name = state[fused[0]].given_name
        raise ValueError(
            f"layout is missing: {name} does not say how query, key and value lie in it; "
            f"it must be one of {LAYOUTS}"
        )
    return layout


def _of_shape(entry: Entry | None, rows: int, kv_heads: int) -> str:
    """Return the layout of a matrix where only one fits, else ""."""
    if entry is None or entry.array.ndim != 2:
        return ""
    of_rows, of_columns = (size == rows for size in entry.array.shape)
    if of_rows == of_columns:
        return ""
    if of_columns:
        return "conv1d"
    return "concatenated" if kv_heads == 1 else ""  # then grouped is the same


def split(
    name: str, entry: Entry, sizes: tuple[int, int, int], groups: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield query, key and value of a matrix or bias of that canonical name.

    Parameters
    ----------
    name : str
    entry : Entry
        Its array has the rows of query, key and value.
    sizes : (int, int, int)
        Rows of each.
    groups : int
        How often a part of the query, one of the key and one of the value follow each other:
        kv_heads if they are grouped, else 1.
    """
    given_name, array = entry
    if array.ndim == 0 or len(array) != sum(sizes):
        raise ValueError(
            f"{given_name} must have {sum(sizes)} rows for q, k and v, got {array.shape}"
        )
    grouped = array.reshape(groups, sum(sizes) // groups, *array.shape[1:])
    ends = np.cumsum([0, *(size // groups for size in sizes)]).tolist()
    kind = name.rpartition(".")[2]
    for projection, size, (start, end) in zip(INPUTS, sizes, pairwise(ends), strict=True):
        part = grouped[:, start:end]
        yield f"{projection}.{kind}", part.reshape(size, *array.shape[1:])
