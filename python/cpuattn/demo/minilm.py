"""The encoder all-MiniLM-L6-v2 (BERT: 6 layers, 12 heads of 32) on cpuattn.

A batch is ragged: its sequences have different lengths. Linear layers and normalizations run on
the real tokens only, packed one after another; attention runs on a padded (B, H, L, D) view, where
`key_lengths` tells cpuattn which keys are real. No mask is ever built.

Letters: T real tokens of the batch, B sequences, L the longest length, C = 384 width, H heads,
D head_dim.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

import cpuattn

Array = NDArray[np.float32]

NUM_HEADS = 12
LAYER_NORM_EPSILON = 1e-12
# gelu makes about ten passes over its rows: this many of them (192 KiB) stay in a core's cache.
GELU_ROWS = 32


class MiniLM:
    """Sentence embeddings.

    Parameters
    ----------
    weights : mapping of str to ndarray of float32
        The model's tensors by their names in ``model.safetensors``; matrices are (out, in).
    num_heads : int, default 12
        Attention heads; the width must be a multiple of it.
    """

    def __init__(self, weights: Mapping[str, Array], num_heads: int = NUM_HEADS) -> None:
        self._weights = weights
        self._num_heads = num_heads
        self._num_layers = 1 + max(
            int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")
        )
        # One product gives query, key and value.
        self._qkv = [self._join_qkv(layer) for layer in range(self._num_layers)]

    def embed(self, sequences: Sequence[Sequence[int]]) -> Array:
        """Return one unit vector per token sequence.

        Parameters
        ----------
        sequences : sequence of sequence of int
            Token ids, [CLS] and [SEP] included, of any lengths from 1 to 512.

        Returns
        -------
        ndarray of float32, shape (len(sequences), C)
        """
        lengths = np.array([len(sequence) for sequence in sequences])
        real = np.arange(lengths.max()) < lengths[:, None]  # (B, L): not padding
        x = self._embed_tokens(np.concatenate(sequences), np.nonzero(real)[1])
        for layer in range(self._num_layers):
            x = self._layer(x, layer, real, lengths)
        starts = np.cumsum(lengths) - lengths
        means = np.add.reduceat(x, starts, axis=0) / lengths[:, None].astype(np.float32)
        vectors: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
        return vectors

    def _embed_tokens(self, ids: NDArray[np.int_], positions: NDArray[np.int_]) -> Array:
        w = self._weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][positions]
        x += w["embeddings.token_type_embeddings.weight"][0]
        return self._norm(x, "embeddings.LayerNorm")

    def _layer(
        self, x: Array, layer: int, real: NDArray[np.bool_], lengths: NDArray[np.int_]
    ) -> Array:
        name = f"encoder.layer.{layer}"
        attended = self._attend(x, layer, real, lengths)
        x = x + self._linear(attended, f"{name}.attention.output.dense")
        x = self._norm(x, f"{name}.attention.output.LayerNorm")
        hidden = gelu(self._linear(x, f"{name}.intermediate.dense"))
        x = x + self._linear(hidden, f"{name}.output.dense")
        return self._norm(x, f"{name}.output.LayerNorm")

    def _attend(
        self, x: Array, layer: int, real: NDArray[np.bool_], lengths: NDArray[np.int_]
    ) -> Array:
        matrix, bias = self._qkv[layer]
        batch, longest = real.shape
        head_dim = x.shape[1] // self._num_heads
        padded = np.zeros((batch, longest, 3, self._num_heads, head_dim), np.float32)
        padded.reshape(batch, longest, -1)[real] = x @ matrix + bias
        query, key, value = padded.transpose(2, 0, 3, 1, 4)  # views (B, H, L, D)
        out = np.empty((batch, longest, self._num_heads, head_dim), np.float32)
        cpuattn.attention(query, key, value, key_lengths=lengths, out=out.swapaxes(1, 2))
        return out.reshape(batch, longest, -1)[real]

    def _join_qkv(self, layer: int) -> tuple[Array, Array]:
        prefix = f"encoder.layer.{layer}.attention.self"
        names = [f"{prefix}.{part}" for part in ("query", "key", "value")]
        matrix = np.concatenate([self._weights[f"{name}.weight"] for name in names])
        return matrix.T, np.concatenate([self._weights[f"{name}.bias"] for name in names])

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(axis=1, keepdims=True)
        variance = np.mean(x * x, axis=1, keepdims=True)
        x /= np.sqrt(variance + np.float32(LAYER_NORM_EPSILON))
        return x * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    """Return x·Φ(x), Φ the normal distribution function, computed in place.

    Φ comes from a rational approximation of erf with an absolute error below 1.5e-7 (Abramowitz and
    Stegun, Handbook of Mathematical Functions, 1964, formula 7.1.26): NumPy has no erf.
    """
    for start in range(0, len(x), GELU_ROWS):
        rows = x[start : start + GELU_ROWS]
        z = np.abs(rows) * np.float32(0.5**0.5)
        t = 1 / (1 + np.float32(0.3275911) * z)
        polynomial = np.float32(1.061405429) * t
        for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            polynomial += np.float32(coefficient)
            polynomial *= t
        polynomial *= np.exp(-z * z)  # erfc(z)
        polynomial *= np.float32(0.5)
        rows *= np.where(rows < 0, polynomial, 1 - polynomial)
    return x
