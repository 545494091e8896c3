"""Weights of the four projections of an attention layer: shapes, initial values, names.

Every weight is (out_features, in_features), as in torch and Hugging Face, and is called as the
latter does: q_proj.weight, k_proj.bias, ..., out_proj.weight.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._arrays import as_weights
from cpuattn.layers.fused_weights import Entry, Layout, choose_layout, is_fused, split
from cpuattn.layers.weight_names import INPUTS, canonical, holds_no_weight

Shapes = Mapping[str, tuple[int, ...]]
Weights = dict[str, NDArray[Any]]


def shapes(
    in_features: tuple[int, int, int],
    heads: tuple[int, int],
    head_dims: tuple[int, int],
    *,
    bias: bool,
) -> Shapes:
    """Return the shape of every weight.

    `in_features` belong to query, key and value; `heads` to the query and the keys;
    `head_dims` to the keys and the values.
    """
    (embed_dim, key_dim, value_dim), (num_heads, kv_heads) = in_features, heads
    head_dim, value_head_dim = head_dims
    weights = {
        "q_proj": (num_heads * head_dim, embed_dim),
        "k_proj": (kv_heads * head_dim, key_dim),
        "v_proj": (kv_heads * value_head_dim, value_dim),
        "out_proj": (embed_dim, num_heads * value_head_dim),
    }
    result: dict[str, tuple[int, ...]] = {}
    for projection, shape in weights.items():
        result[f"{projection}.weight"] = shape
        if bias:
            result[f"{projection}.bias"] = shape[:1]
    return result


def initial(shapes: Shapes, dtype: np.dtype[Any], rng: "np.random.Generator") -> Weights:
    """Return random weights as torch.nn.MultiheadAttention starts: Xavier uniform, zero biases."""
    # torch initializes the fused matrix as one, so that its fan_out is the sum of three.
    fused_fan_out = sum(shapes[f"{projection}.weight"][0] for projection in INPUTS)
    weights: Weights = {}
    for name, shape in shapes.items():
        if name.endswith(".bias"):
            weights[name] = np.zeros(shape, dtype)
            continue
        fan_out, fan_in = shape
        if name == "out_proj.weight":
            bound = 1 / math.sqrt(fan_in)
        else:
            bound = math.sqrt(6 / (fan_in + (fused_fan_out if _is_fused(shapes) else fan_out)))
        weights[name] = rng.uniform(-bound, bound, shape).astype(dtype)
    return weights


def extra_shapes(shapes: Shapes, kv_heads: int) -> Mapping[str, tuple[tuple[int, ...], ...]]:
    """Return the shapes that a weight may have which a state holds or not."""
    query, key = shapes["q_proj.weight"][0], shapes["k_proj.weight"][0]
    head_dim = key // kv_heads
    return {
        "q_norm.weight": ((head_dim,), (query,)),  # of each head (Qwen 3), of all (OLMo 2)
        "k_norm.weight": ((head_dim,), (key,)),
        "sinks": ((query // head_dim,),),
    }


def from_state_dict(
    state: Mapping[str, ArrayLike],
    shapes: Shapes,
    dtype: np.dtype[Any],
    kv_heads: int,
    layout: Layout | None,
) -> Weights:
    """Return copies of the weights in dtype; ValueError unless they are all those expected."""
    entries = _read(state)
    extra = extra_shapes(shapes, kv_heads)
    weights: Weights = {}
    unexpected = []
    for name, (given_name, part) in _projections(entries, shapes, kv_heads, layout):
        allowed = extra.get(name, (shapes[name],) if name in shapes else ())
        if not allowed:
            unexpected.append(given_name)
            continue
        if name in weights:
            raise ValueError(f"{given_name}: state holds {name} already under another name")
        if part.shape not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise ValueError(f"{given_name} must have shape {wanted}, got {part.shape}")
        weights[name] = np.array(part, dtype, order="C")
    missing = [name for name in shapes if name.endswith(".weight") and name not in weights]
    norms = {"q_norm.weight", "k_norm.weight"}
    if norms & weights.keys():
        missing += sorted(norms - weights.keys())
    biases = [name for name in shapes if name.endswith(".bias")]
    # One projection may lack a bias (Whisper's keys, Qwen's output), but not all of them.
    if biases and not weights.keys() & set(biases):
        missing += biases
    if missing or unexpected:
        raise ValueError(f"state: missing names {missing}, unexpected names {unexpected}")
    return weights


def _read(state: Mapping[str, ArrayLike]) -> dict[str, Entry]:
    """Return the weights by their canonical names, or raise TypeError or ValueError."""
    entries: dict[str, Entry] = {}
    for given_name, array in state.items():
        values = as_weights(array, given_name)
        name = canonical(given_name)
        if holds_no_weight(name, values):
            continue
        if not (np.issubdtype(values.dtype, np.floating) or values.dtype.name == "bfloat16"):
            raise TypeError(f"{given_name} must be an array of float, got {values.dtype}")
        if name in entries:
            raise ValueError(f"{given_name}: state holds {name} already under another name")
        entries[name] = Entry(given_name, values)
    return entries


def to_torch(weights: Weights) -> Weights:
    """Return copies under the names of torch.nn.MultiheadAttention; norms, which it lacks, ours."""
    inputs = {projection: weights[f"{projection}.weight"] for projection in INPUTS}
    if _is_fused({f"{projection}.weight": w.shape for projection, w in inputs.items()}):
        state = {"in_proj_weight": np.concatenate(list(inputs.values()))}
    else:
        state = {f"{projection}_weight": w.copy() for projection, w in inputs.items()}
    state["out_proj.weight"] = weights["out_proj.weight"].copy()
    if any(name.endswith(".bias") for name in weights):
        biases = [
            weights.get(f"{projection}.bias", np.zeros_like(weights[f"{projection}.weight"][:, 0]))
            for projection in (*INPUTS, "out_proj")
        ]
        state["in_proj_bias"] = np.concatenate(biases[:3])
        state["out_proj.bias"] = biases[3].copy()
    others = {name for name in weights if name.split(".")[0] not in (*INPUTS, "out_proj")}
    return state | {name: weights[name].copy() for name in sorted(others)}


def _is_fused(shapes: Shapes) -> bool:
    """Whether torch keeps q, k and v in one matrix: if they are projected from as many features."""
    return len({shapes[f"{projection}.weight"][1] for projection in INPUTS}) == 1


def _projections(
    entries: Mapping[str, Entry], shapes: Shapes, kv_heads: int, layout: Layout | None
) -> Iterator[tuple[str, Entry]]:
    """Yield every weight of a state by its name, the parts of a fused matrix one by one."""
    query, key, value = (shapes[f"{projection}.weight"][0] for projection in INPUTS)
    chosen = choose_layout(layout, entries, query + key + value, kv_heads)
    for name, (given_name, array) in entries.items():
        entry = Entry(given_name, array.T if chosen == "conv1d" and array.ndim == 2 else array)
        if not is_fused(name):
            yield name, entry
            continue
        groups = kv_heads if chosen == "grouped" else 1
        for part_name, part in split(name, entry, (query, key, value), groups):
            yield part_name, Entry(given_name, part)
