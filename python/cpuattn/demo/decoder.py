"""A decoder-only transformer of the Llama family, with cpuattn as its attention.

Every block is RMS normalization, grouped-query attention over rotary positions and a key/value
cache, RMS normalization, SwiGLU; the embeddings also give the logits. Everything but the attention
is a line of NumPy, so the file reads as the models' definition: `glassllm.py` and `llama.py`
fill it with trained weights.

Letters: n new tokens, C model width, Hq and Hkv heads, D head_dim, F width of the feed-forward
layer, V tokens of the vocabulary, R rotated features of a head.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import cpuattn

Array = NDArray[np.float32]
# Gives a layer's attention, (1, Hq, n, D), of queries (1, Hq, n, D) over a cache.
Attend = Callable[[cpuattn.KVCache, Array], Array]
# Gives the next token for the logits (V,).
Chooser = Callable[[Array], int]


@dataclass(frozen=True)
class Config:
    """What the shapes of the weights do not say."""

    heads: int  # Hq
    kv_heads: int  # Hkv
    head_dim: int  # D
    context: int  # most tokens of a sequence
    frequencies: NDArray[np.float64]  # (R / 2,), radians a token; of the other features none
    epsilon: float  # of the RMS normalizations


@dataclass(frozen=True)
class Block:
    """The weights of one layer, for ``x @ weight``; products of the same x are joined."""

    attention_norm: Array  # (C,)
    query_key_value: Array  # (C, (Hq + 2·Hkv)·D)
    output: Array  # (Hq·D, C)
    feed_forward_norm: Array  # (C,)
    gate_up: Array  # (C, 2·F)
    down: Array  # (F, C)


def rope_frequencies(base: float, features: int) -> NDArray[np.float64]:
    """Return the angles by which rotary positions turn pairs of features, base^(-2i / R)."""
    frequencies: NDArray[np.float64] = base ** (-np.arange(0, features, 2) / features)
    return frequencies


def attend(cache: cpuattn.KVCache, query: Array) -> Array:
    """Attend with cpuattn; the queries belong to the last tokens in the cache.

    causal is bottom-right: query i of n is the (length - n + i)-th token, in prefill and decode
    alike.
    """
    return cache.attend(query, causal=True)


class Decoder:
    """The forward pass over a token sequence that grows.

    Parameters
    ----------
    config : Config
        Sizes and constants.
    embedding : ndarray of float32, shape (V, C)
        One row per token.
    blocks : sequence of Block
        The layers.
    norm : ndarray of float32, shape (C,)
        Gain of the last normalization.
    head : ndarray of float32, shape (V, C), optional
        Gives the logits; by default the embedding does.
    """

    def __init__(
        self,
        config: Config,
        embedding: Array,
        blocks: Sequence[Block],
        norm: Array,
        head: Array | None = None,
    ) -> None:
        self.config = config
        self.blocks = blocks
        self.attention_seconds = 0.0  # spent so far in the caches: append and attend
        self._embedding = embedding
        self._norm_gain = norm
        self._head = embedding if head is None else head
        angle = np.outer(np.arange(config.context), config.frequencies)
        self._cos = np.cos(angle).astype(np.float32)
        self._sin = np.sin(angle).astype(np.float32)

    def describe(self) -> str:
        """Return one line about the sizes."""
        weights = [self._embedding, self._norm_gain]
        weights += [] if self._head is self._embedding else [self._head]
        weights += [weight for block in self.blocks for weight in vars(block).values()]
        config = self.config
        return (
            f"{sum(weight.size for weight in weights):,} parameters, {len(self.blocks)} layers, "
            f"{config.heads} query heads over {config.kv_heads} key/value heads, "
            f"head_dim {config.head_dim}, context {config.context}"
        )

    def new_caches(
        self, capacity: int | None = None, dtype: str = "float32"
    ) -> list[cpuattn.KVCache]:
        """Return one empty KV cache per layer, with room for the whole context by default."""
        config = self.config
        room = config.context if capacity is None else capacity
        return [
            cpuattn.KVCache(1, config.kv_heads, config.head_dim, capacity=room, dtype=dtype)
            for _ in self.blocks
        ]

    def write(
        self,
        ids: list[int],
        caches: list[cpuattn.KVCache],
        choose: Chooser,
        attention: Attend = attend,
    ) -> Iterator[tuple[int, Array]]:
        """Yield (token, the logits it was chosen by) without end.

        Parameters
        ----------
        ids : list of int
            The prompt.
        caches : list of KVCache
            One per layer, empty at first.
        choose : callable
            Gives the next token for the logits.
        attention : callable, optional
            As in `logits`.

        Yields
        ------
        tuple of int and ndarray of float32, shape (V,)
        """
        pending = ids  # first the whole prompt (prefill), then one token at a time (decode)
        while True:
            logits = self.logits(pending, caches, attention)
            token = choose(logits)
            yield token, logits
            pending = [token]

    def logits(
        self, ids: list[int], caches: list[cpuattn.KVCache], attention: Attend = attend
    ) -> Array:
        """Append tokens to the sequence and score the token that follows.

        Parameters
        ----------
        ids : list of int
            The new tokens: the whole prompt (prefill) or the one last chosen (decode).
        caches : list of KVCache
            One per layer; they hold the tokens so far and are extended in place.
        attention : callable, default attend
            Called with (cache, query) for each layer, after its keys and values were appended.

        Returns
        -------
        ndarray of float32, shape (V,)
        """
        x = self._embedding[ids]  # (n, C)
        for block, cache in zip(self.blocks, caches, strict=True):
            query, key, value = self._project(self._norm(x, block.attention_norm), block, cache)
            start = time.perf_counter()
            cache.append(key, value)
            mixed = attention(cache, query)  # (1, Hq, n, D)
            self.attention_seconds += time.perf_counter() - start
            x = x + mixed[0].transpose(1, 0, 2).reshape(len(x), -1) @ block.output
            x = x + _feed_forward(self._norm(x, block.feed_forward_norm), block)
        # The last token's row alone, and as a matrix times a vector.
        scores: Array = self._head @ self._norm(x[-1], self._norm_gain)
        return scores

    def _project(
        self, x: Array, block: Block, cache: cpuattn.KVCache
    ) -> tuple[Array, Array, Array]:
        """Return query (1, Hq, n, D), key and value (1, Hkv, n, D), the first two rotated."""
        joined = (x @ block.query_key_value).reshape(1, len(x), -1, self.config.head_dim)
        heads = joined.transpose(0, 2, 1, 3)  # a view: cpuattn reads the strides
        first_value = self.config.heads + self.config.kv_heads
        rotated = cpuattn.rotary_embedding(
            heads[:, :first_value],
            self._cos,
            self._sin,
            positions=int(cache.lengths[0]),
            interleaved=True,  # neighboring features (2i, 2i + 1) are a pair
        )
        queries = self.config.heads
        return rotated[:, :queries], rotated[:, queries:], heads[:, first_value:]

    def _norm(self, x: Array, gain: Array) -> Array:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        result: Array = x / np.sqrt(mean_square + np.float32(self.config.epsilon)) * gain
        return result


def _feed_forward(x: Array, block: Block) -> Array:
    gate, up = np.split(x @ block.gate_up, 2, axis=-1)
    silu = gate * (0.5 + 0.5 * np.tanh(0.5 * gate))  # gate · sigmoid(gate), without overflow
    output: Array = (silu * up) @ block.down
    return output
