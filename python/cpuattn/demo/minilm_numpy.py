"""MiniLM in plain float64 NumPy, one sequence at a time: what the fast one is checked against.

It shares no code with `minilm.py`: no batch, no padding, no packed weights, the exact erf.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def embed(
    weights: Mapping[str, NDArray[np.float32]], ids: Sequence[int], num_heads: int = 12
) -> Array:
    """Return the unit vector of one token sequence.

    Parameters
    ----------
    weights : mapping of str to ndarray
        The model's tensors by their names in ``model.safetensors``.
    ids : sequence of int
        Token ids, [CLS] and [SEP] included.
    num_heads : int, default 12
        Attention heads.

    Returns
    -------
    ndarray of float64, shape (C,)
    """

    def linear(x: Array, name: str) -> Array:
        result: Array = x @ weights[f"{name}.weight"].T.astype(np.float64)
        result += weights[f"{name}.bias"]
        return result

    def norm(x: Array, name: str) -> Array:
        result: Array = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        result *= weights[f"{name}.weight"]
        result += weights[f"{name}.bias"]
        return result

    x = weights["embeddings.word_embeddings.weight"][list(ids)].astype(np.float64)
    x += weights["embeddings.position_embeddings.weight"][: len(ids)]
    x += weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in weights:
        name = f"encoder.layer.{layer}"
        query, key, value = (
            linear(x, f"{name}.attention.self.{part}").reshape(len(ids), num_heads, -1)
            for part in ("query", "key", "value")
        )
        attended = _attention(query, key, value).reshape(len(ids), -1)
        x = x + linear(attended, f"{name}.attention.output.dense")
        x = norm(x, f"{name}.attention.output.LayerNorm")
        hidden = linear(x, f"{name}.intermediate.dense")
        hidden *= 0.5 + 0.5 * _erf(hidden / math.sqrt(2))  # GELU
        x = norm(x + linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        layer += 1
    mean = x.mean(0)
    unit: Array = mean / np.linalg.norm(mean)
    return unit


def _attention(query: Array, key: Array, value: Array) -> Array:
    """Attend with every head; (L, H, D) in and out."""
    scores = np.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[2])
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    output: Array = np.einsum("hqk,khd->qhd", weights, value)
    return output


def _erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x.ravel().tolist()]).reshape(x.shape)
