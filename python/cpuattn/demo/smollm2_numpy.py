"""SmolLM2 in plain float64 NumPy, a whole sequence at once: what the chat is checked against.

It shares no code with `decoder.py`: no cache, no joined weights, every matrix of scores is built,
and pairs of features are turned as complex numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logits(
    weights: Mapping[str, NDArray[np.float32]], value: Callable[[str], Any], ids: Sequence[int]
) -> Array:
    """Score, for every token of a sequence, the token that follows it.

    Parameters
    ----------
    weights : mapping of str to ndarray
        The model's tensors by their names in the GGUF file; matrices are (out, in).
    value : callable
        Gives the value of a metadata field of the GGUF file.
    ids : sequence of int
        The tokens.

    Returns
    -------
    ndarray of float64, shape (len(ids), V)
    """
    heads, kv_heads = (value(f"llama.attention.head_count{part}") for part in ("", "_kv"))
    epsilon = value("llama.attention.layer_norm_rms_epsilon")

    def linear(x: Array, name: str) -> Array:
        result: Array = x @ weights[f"{name}.weight"].T.astype(np.float64)
        return result

    def norm(x: Array, name: str) -> Array:
        root = np.sqrt((x**2).mean(axis=1, keepdims=True) + epsilon)
        result: Array = x / root * weights[f"{name}.weight"]
        return result

    x = weights["token_embd.weight"][list(ids)].astype(np.float64)
    for layer in range(value("llama.block_count")):
        name = f"blk.{layer}"
        normed = norm(x, f"{name}.attn_norm")
        query, key, values = (
            linear(normed, f"{name}.attn_{part}").reshape(len(ids), count, -1)
            for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        base = value("llama.rope.freq_base")
        attended = _attention(_rotate(query, base), _rotate(key, base), values)
        x = x + linear(attended.reshape(len(ids), -1), f"{name}.attn_output")
        normed = norm(x, f"{name}.ffn_norm")
        gate = linear(normed, f"{name}.ffn_gate")
        gate /= 1 + np.exp(-gate)  # SiLU
        x = x + linear(gate * linear(normed, f"{name}.ffn_up"), f"{name}.ffn_down")
    return linear(norm(x, "output_norm"), "token_embd")


def _rotate(x: Array, base: float) -> Array:
    """Turn the pairs (2i, 2i + 1) of (n, H, D) by position / base^(2i / D)."""
    length, _, head_dim = x.shape
    angle = np.outer(np.arange(length), base ** -np.arange(0, 1, 2 / head_dim))
    turned = x.view(np.complex128) * np.exp(1j * angle)[:, None]
    pairs: Array = turned.view(np.float64)
    return pairs


def _attention(query: Array, key: Array, values: Array) -> Array:
    """Attend causally with every head; (n, H, D) in and out."""
    group = query.shape[1] // key.shape[1]
    key, values = key.repeat(group, axis=1), values.repeat(group, axis=1)
    scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(query.shape[2])
    scores[:, ~np.tri(len(query), dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    output: Array = np.einsum("hqk,khd->qhd", weights, values)
    return output
