"""Weights of the four projections of an attention layer: shapes, initial values, names.

Every weight is (out_features, in_features), as in torch and Hugging Face, and is called as the
latter does: q_proj.weight, k_proj.bias, ..., out_proj.weight.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._arrays import as_weights

Shapes = Mapping[str, tuple[int, ...]]
Weights = dict[str, NDArray[Any]]

INPUTS = ("q_proj", "k_proj", "v_proj")

RENAMED = {
    "q_proj_weight": "q_proj.weight",  # torch, where key or value have other features than query
    "k_proj_weight": "k_proj.weight",
    "v_proj_weight": "v_proj.weight",
    "o_proj.weight": "out_proj.weight",  # Llama and its descendants
    "o_proj.bias": "out_proj.bias",
}


def shapes(
    in_features: tuple[int, int, int], query_features: int, key_features: int, *, bias: bool
) -> Shapes:
    """Return the shape of every weight; in_features are those of query, key and value."""
    embed_dim, key_dim, value_dim = in_features
    weights = {
        "q_proj": (query_features, embed_dim),
        "k_proj": (key_features, key_dim),
        "v_proj": (key_features, value_dim),
        "out_proj": (embed_dim, query_features),
    }
    result: dict[str, tuple[int, ...]] = {}
    for projection, shape in weights.items():
        result[f"{projection}.weight"] = shape
        if bias:
            result[f"{projection}.bias"] = shape[:1]
    return result


def initial(shapes: Shapes, dtype: np.dtype[Any], rng: "np.random.Generator") -> Weights:
    """Return random weights as torch.nn.MultiheadAttention starts: Xavier uniform, zero biases."""
    # torch initialises the fused matrix as one, so that its fan_out is the sum of three.
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


def from_state_dict(
    state: Mapping[str, ArrayLike], shapes: Shapes, dtype: np.dtype[Any]
) -> Weights:
    """Return copies of the weights in dtype; ValueError unless they are all those expected."""
    weights: Weights = {}
    unexpected = []
    for given_name, array in state.items():
        values = as_weights(array, given_name)
        if not (np.issubdtype(values.dtype, np.floating) or values.dtype.name == "bfloat16"):
            raise TypeError(f"{given_name} must be an array of float, got {values.dtype}")
        for name, part in _projections(given_name, values, shapes):
            if name not in shapes:
                unexpected.append(given_name)
                continue
            if name in weights:
                raise ValueError(f"{given_name}: state holds {name} already under another name")
            if part.shape != shapes[name]:
                raise ValueError(f"{given_name} must have shape {shapes[name]}, got {part.shape}")
            weights[name] = np.array(part, dtype, order="C")
    missing = [name for name in shapes if name.endswith(".weight") and name not in weights]
    biases = [name for name in shapes if name.endswith(".bias")]
    # One projection may lack a bias (Whisper's keys, Qwen's output), but not all of them.
    if biases and not weights.keys() & set(biases):
        missing += biases
    if missing or unexpected:
        raise ValueError(f"state: missing names {missing}, unexpected names {unexpected}")
    return weights


def to_torch(weights: Weights) -> Weights:
    """Return copies under the names of torch.nn.MultiheadAttention."""
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
    return state


def _is_fused(shapes: Shapes) -> bool:
    """Whether torch keeps q, k and v in one matrix: if they are projected from as many features."""
    return len({shapes[f"{projection}.weight"][1] for projection in INPUTS}) == 1


def _projections(
    name: str, values: NDArray[Any], shapes: Shapes
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the projections that an entry of a state dict holds: one, or three that are fused."""
    if name not in ("in_proj_weight", "in_proj_bias"):
        yield RENAMED.get(name, name), values
        return
    ends = np.cumsum([0] + [shapes[f"{projection}.weight"][0] for projection in INPUTS]).tolist()
    if values.ndim == 0 or len(values) != ends[-1]:
        raise ValueError(f"{name} must have {ends[-1]} rows for q, k and v, got {values.shape}")
    for projection, (start, end) in zip(INPUTS, pairwise(ends), strict=True):
        yield f"{projection}.{name.removeprefix('in_proj_')}", values[start:end]
