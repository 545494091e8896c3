"""The decoder-only transformer of the PyPI package glassllm, with cpuattn as its attention.

Four blocks of 4 query heads over 2 key/value heads (grouped-query attention), head_dim 32, rotary
positions, RMS normalisation and SwiGLU; embeddings of 1024 tokens that also give the logits.
Everything but the attention is a line of NumPy, so the file reads as the model's definition.

Letters: n new tokens, C model width, Hq and Hkv heads, D head_dim.
"""

from collections.abc import Callable
from typing import Any

import glassllm
import numpy as np
from numpy.typing import NDArray

import cpuattn

Array = NDArray[np.float32]
# Called with (layer, query, key) just before a layer's attention.
Recorder = Callable[[int, Array, Array], None]


class Transformer:
    """The forward pass over a token sequence that grows.

    Parameters
    ----------
    model : glassllm.GlassLM
        The package's own model: its weights and configuration are read, its code is not run.
    """

    def __init__(self, model: Any) -> None:
        self.config = model.cfg
        self.weights: dict[str, Array] = {
            name: tensor.data for name, tensor in model.named_parameters().items()
        }
        self.head_dim: int = self.config.d_model // self.config.n_heads
        frequency = self.config.rope_base ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        angle = np.outer(np.arange(self.config.max_len), frequency)
        self.cos = np.cos(angle).astype(np.float32)
        self.sin = np.sin(angle).astype(np.float32)

    def new_caches(self) -> list[cpuattn.KVCache]:
        """Return one empty KV cache per layer, with room for the model's whole context."""
        return [
            cpuattn.KVCache(1, self.config.n_kv_heads, self.head_dim, capacity=self.config.max_len)
            for _ in range(self.config.n_layers)
        ]

    def logits(
        self,
        ids: list[int],
        caches: list[cpuattn.KVCache],
        record: Recorder | None = None,
    ) -> Array:
        """Append tokens to the sequence and score the token that follows.

        Parameters
        ----------
        ids : list of int
            The new tokens: the whole prompt (prefill) or the one last chosen (decode).
        caches : list of KVCache
            One per layer; they hold the tokens so far and are extended in place.
        record : callable, optional
            Called with (layer, query, key) before each layer's attention.

        Returns
        -------
        ndarray of float32, shape (vocab_size,)
        """
        x = self.weights["E"][ids]  # (n, C)
        for layer, cache in enumerate(caches):
            block = f"blocks.{layer}"
            x = x + self._attend(self._norm(x, f"{block}.norm1"), layer, cache, record)
            x = x + self._feed_forward(self._norm(x, f"{block}.norm2"), f"{block}.ffn")
        scores: Array = self._norm(x[-1], "norm_f") @ self.weights["E"].T
        return scores

    def _attend(
        self, x: Array, layer: int, cache: cpuattn.KVCache, record: Recorder | None
    ) -> Array:
        name = f"blocks.{layer}.attn"
        query, key, value = (self._heads(x @ self.weights[f"{name}.W_{part}"]) for part in "QKV")
        position = int(cache.lengths[0])
        query = self._rotate(query, position)
        cache.append(self._rotate(key, position), value)
        if record is not None:
            record(layer, query, cache.keys)
        # causal is bottom-right: query i of n is the (length - n + i)-th token, in prefill and
        # decode alike.
        mixed = cache.attend(query, causal=True)  # (1, Hq, n, D)
        joined = mixed[0].transpose(1, 0, 2).reshape(len(x), -1)
        output: Array = joined @ self.weights[f"{name}.W_O"]
        return output

    def _heads(self, x: Array) -> Array:
        """View (n, H·D) as (1, H, n, D); cpuattn reads the strides, nothing is copied."""
        return x.reshape(1, len(x), -1, self.head_dim).transpose(0, 2, 1, 3)

    def _rotate(self, x: Array, position: int) -> Array:
        # glassllm pairs neighbouring features (2i, 2i + 1): the interleaved layout.
        return cpuattn.rotary_embedding(x, self.cos, self.sin, positions=position, interleaved=True)

    def _norm(self, x: Array, name: str) -> Array:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        result: Array = x / np.sqrt(mean_square + self.config.eps) * self.weights[f"{name}.gamma"]
        return result

    def _feed_forward(self, x: Array, name: str) -> Array:
        gate = x @ self.weights[f"{name}.W1"]
        up = x @ self.weights[f"{name}.W3"]
        silu = gate * (0.5 + 0.5 * np.tanh(0.5 * gate))  # gate · sigmoid(gate), without overflow
        output: Array = (silu * up) @ self.weights[f"{name}.W2"]
        return output


def load(language: str) -> tuple[Transformer, Any, Any]:
    """Load a model that ships in the glassllm package.

    Parameters
    ----------
    language : {"en", "pt"}
        English (trained on Lewis Carroll) or Portuguese (Machado de Assis).

    Returns
    -------
    transformer : Transformer
        The model on cpuattn.
    model : glassllm.GlassLM
        The package's own NumPy model: the reference.
    tokenizer : glassllm.Tokenizer
        Its byte-pair tokenizer.
    """
    model, tokenizer = glassllm.load_pretrained(language)
    return Transformer(model), model, tokenizer
