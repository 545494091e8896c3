"""Whisper, which turns speech into text: an encoder that listens, a decoder that writes.

The encoder attends over the sound from everywhere to everywhere, so nothing is causal. The decoder
writes one token after the other. In each of its layers a token first attends to the tokens before
it (self-attention), then to the sound (cross-attention). Keys and values of both are kept in a
`cpuattn.KVCache`: for the sound they are computed once, for the text they grow by a token a step.

Letters: B = 1 sound, L tokens or frames, C width, H heads, D = C / H.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022.
"""

from collections.abc import Mapping, Sequence

import numpy as np

import cpuattn
from cpuattn.demo.minilm import gelu
from models.parts import Array, Attention, join_heads, layer_norm, split_heads

EPSILON = 1e-5


class Whisper:
    """The layers of both halves.

    Parameters
    ----------
    weights : mapping of str to ndarray of float32
        By their names in a model file of CTranslate2; matrices are (out, in).
    attention : callable, default cpuattn.attention
        Called with query, key and value, and with ``causal=True`` for the text.
    """

    def __init__(
        self, weights: Mapping[str, Array], attention: Attention = cpuattn.attention
    ) -> None:
        self.weights = weights
        self.attention = attention
        self.num_heads = int(weights["encoder/num_heads"])
        self.encoder_layers, self.decoder_layers = (
            sum(name.startswith(half) and name.endswith("/ffn/linear_0/bias") for name in weights)
            for half in ("encoder/", "decoder/")
        )

    def encode(self, sound: Array) -> Array:
        """Listen.

        Parameters
        ----------
        sound : ndarray of float32, shape (3000, 80)
            From `log_mel`.

        Returns
        -------
        ndarray of float32, shape (1, 1500, C)
            What was heard in each frame of 20 ms.
        """
        x = gelu(self._convolve(sound, "encoder/conv1", stride=1))
        x = gelu(self._convolve(x, "encoder/conv2", stride=2))
        x = (x + self.weights["encoder/position_encodings/encodings"])[None]
        for layer in range(self.encoder_layers):
            name = f"encoder/layer_{layer}"
            query, key, value = self.project_self(x, f"{name}/self_attention")
            out = self.attention(query, key, value)
            x = x + self.linear(join_heads(out), f"{name}/self_attention/linear_1")
            x = self.feed_forward(x, f"{name}/ffn")
        return self.norm(x, "encoder/layer_norm")

    def project_self(self, x: Array, name: str) -> list[Array]:
        """Return query, key and value of self-attention, (1, H, L, D) each."""
        joined = self.linear(self.norm(x, f"{name}/layer_norm"), f"{name}/linear_0")
        return [split_heads(part, self.num_heads) for part in np.split(joined, 3, axis=-1)]

    def feed_forward(self, x: Array, name: str) -> Array:
        """Let every token think for itself, (1, L, C) in and out."""
        hidden = self.linear(self.norm(x, f"{name}/layer_norm"), f"{name}/linear_0")
        return x + self.linear(gelu(hidden[0])[None], f"{name}/linear_1")

    def linear(self, x: Array, name: str) -> Array:
        """Multiply the features by a matrix and add a bias."""
        return x @ self.weights[f"{name}/weight"].T + self.weights[f"{name}/bias"]

    def norm(self, x: Array, name: str) -> Array:
        """Normalize every token."""
        return layer_norm(x, self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"], EPSILON)

    def _convolve(self, x: Array, name: str, *, stride: int) -> Array:
        """Mix each row with the one before and after it, and keep one row of each `stride`."""
        kernel = self.weights[f"{name}/weight"]  # (out, in, 3)
        padded = np.pad(x, ((1, 1), (0, 0)))
        before, here, after = (
            padded[tap : tap + len(x) : stride] @ kernel[:, :, tap].T for tap in range(3)
        )
        mixed: Array = before + here + after
        return mixed + self.weights[f"{name}/bias"]


class Decoder:
    """The text of one sound, as far as it is written.

    Parameters
    ----------
    model : Whisper
    heard : ndarray of float32, shape (1, 1500, C)
        From `Whisper.encode`.
    """

    def __init__(self, model: Whisper, heard: Array) -> None:
        self._model = model
        heads, head_dim = model.num_heads, heard.shape[2] // model.num_heads
        layers = range(model.decoder_layers)
        self._text = [cpuattn.KVCache(1, heads, head_dim, capacity=64) for _ in layers]
        self._sound = [cpuattn.KVCache(1, heads, head_dim) for _ in layers]
        for layer, cache in enumerate(self._sound):
            joined = model.linear(heard, f"decoder/layer_{layer}/attention/linear_1")
            key, value = (split_heads(part, heads) for part in np.split(joined, 2, axis=-1))
            cache.append(key, value)

    def step(self, ids: Sequence[int]) -> Array:
        """Read the next tokens and judge what may follow.

        Parameters
        ----------
        ids : sequence of int
            All tokens of the prompt, or the one that was written last.

        Returns
        -------
        ndarray of float32, shape (vocabulary,)
            The higher, the likelier.
        """
        model, weights = self._model, self._model.weights
        start = int(self._text[0].lengths[0])
        positions = weights["decoder/position_encodings/encodings"][start : start + len(ids)]
        x = (weights["decoder/embeddings/weight"][list(ids)] + positions)[None]
        for layer in range(model.decoder_layers):
            name = f"decoder/layer_{layer}"
            x = x + self._look_back(x, f"{name}/self_attention", self._text[layer])
            x = x + self._listen(x, f"{name}/attention", self._sound[layer])
            x = model.feed_forward(x, f"{name}/ffn")
        last = model.norm(x, "decoder/layer_norm")[0, -1]
        logits: Array = weights["decoder/projection/weight"] @ last
        return logits

    def _look_back(self, x: Array, name: str, cache: cpuattn.KVCache) -> Array:
        """Attend to the text so far, the new tokens included."""
        query, key, value = self._model.project_self(x, name)
        cache.append(key, value)
        out = self._model.attention(query, cache.keys, cache.values, causal=True)
        return self._model.linear(join_heads(out), f"{name}/linear_1")

    def _listen(self, x: Array, name: str, cache: cpuattn.KVCache) -> Array:
        """Attend to the sound: few queries over 1500 keys."""
        x = self._model.linear(self._model.norm(x, f"{name}/layer_norm"), f"{name}/linear_0")
        query = split_heads(x, self._model.num_heads)
        out = self._model.attention(query, cache.keys, cache.values)
        return self._model.linear(join_heads(out), f"{name}/linear_2")
