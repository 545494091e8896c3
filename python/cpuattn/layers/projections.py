"""The linear maps of an attention layer, and the loading and saving of their weights."""

from __future__ import annotations  # help() then shows ArrayLike, and not what it stands for

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn._checks import check_number
from cpuattn.layers import weights as layer_weights
from cpuattn.layers.fused_weights import Layout

# The root mean square norms of what a map gives.
_NORMS = {"q_proj": "q_norm.weight", "k_proj": "k_norm.weight"}


class Projections:
    """Four linear maps: query, key and value from their inputs, and the output from the heads.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape of every weight and bias, from `layer_weights.shapes`.
    kv_heads : int
        Into which the features of keys and values are divided.
    norm_eps : float
        Added to the mean square of a head that is normalized.
    dtype : dtype
        Of all weights, float32 or float64.
    rng : int or numpy.random.Generator, optional
        Source of the initial weights.
    """

    def __init__(
        self,
        shapes: layer_weights.Shapes,
        kv_heads: int,
        norm_eps: float,
        dtype: np.dtype[Any],
        rng: int | np.random.Generator | None,
    ) -> None:
        self.dtype = dtype
        self.norm_eps = norm_eps
        self._shapes, self._kv_heads = shapes, kv_heads
        self._weights = layer_weights.initial(shapes, dtype, np.random.default_rng(rng))

    def load_state_dict(
        self,
        state: Mapping[str, ArrayLike],
        *,
        prefix: str = "",
        layout: Layout | None = None,
        norm_offset: float = 0.0,
    ) -> None:
        """Replace all weights by the weights of a checkpoint.

        Parameters
        ----------
        state : mapping of str to array of float
            Weights (out_features, in_features) and biases under the names of
            torch.nn.MultiheadAttention, or of Hugging Face's models (see Notes). They are copied
            and converted to the dtype of the layer. Where a projection has no bias but another has
            one, it is left without.
        prefix : str, default ""
            Only names that begin with it are read, such as "model.layers.0.self_attn.".
        layout : {"concatenated", "grouped", "conv1d"}, optional
            How query, key and value lie in one matrix, where its name does not say it or says it
            wrongly. "concatenated": all rows of the query, then of the key, then of the value.
            "grouped": for each key/value head the rows of its query heads, its key and its value.
            "conv1d": concatenated, and all weights are (in_features, out_features).
        norm_offset : float, default 0
            Added to the weights of q_norm and k_norm: 1 for Gemma 3 and Qwen3-Next, whose norms
            multiply by 1 + weight.

        Raises
        ------
        TypeError
            If an array is not of float.
        ValueError
            If a name is missing or unexpected, a shape is wrong, `layout` is needed, or an argument
            is given that changes nothing. The layer is then unchanged.

        Notes
        -----
        Names that are known, for query, key, value and output, with or without the modules
        ``attention``, ``self``, ``self_attn`` or ``SelfAttention`` before them:

        ================================================ ======================================
        q_proj, k_proj, v_proj, o_proj or out_proj        Llama, Qwen, Mistral, Gemma, BART, ...
        query, key, value, output.dense or dense          BERT, RoBERTa, ALBERT, ...
        q_lin, k_lin, v_lin, out_lin; q, k, v, o          DistilBERT; T5
        to_q, to_k, to_v, to_out.0; wq, wk, wv, wo        Diffusers; Llama of Meta
        in_proj_weight, in_proj_bias, out_proj            torch: concatenated
        qkv_proj, o_proj; Wqkv; W_pack; qkv, proj         Phi-3; MPT, ModernBERT; ViT: concatenated
        query_key_value, dense; wqkv, wo                  GPT-NeoX, BLOOM, Falcon: grouped
        c_attn, c_proj                                    GPT-2: conv1d, by the shape of c_attn
        ================================================ ======================================

        `layout` must be given for a c_attn that is (out_features, in_features) with many key heads,
        as GPTBigCode ("grouped") and Qwen ("concatenated") have it, and for a qkv_proj beside an
        out_proj, as CodeGen has, whose order is none of these. ChatGLM 2 calls a concatenated
        matrix query_key_value: give ``layout="concatenated"``.

        With q_norm.weight and k_norm.weight, queries and keys are divided by their root mean square
        and multiplied by these before they are rotated: each head if they have D elements (Qwen 3,
        Gemma 3), all heads together if they have an element for each feature (OLMo 2). ``sinks``
        (gpt-oss) are passed to `attention`. Buffers (rotary_emb.inv_freq; the causal masks bias and
        masked_bias) and BERT's output.LayerNorm, which follows the layer, are not read: pass
        ``causal=True``, ``scale=`` and so on to the call.
        """
        chosen = {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}
        weights = layer_weights.from_state_dict(
            chosen, self._shapes, self.dtype, self._kv_heads, layout
        )
        offset = check_number("norm_offset", norm_offset)
        if offset and not set(_NORMS.values()) & weights.keys():
            raise ValueError(f"norm_offset is {norm_offset}, but state holds no q_norm and k_norm")
        for norm in _NORMS.values():
            if norm in weights:
                weights[norm] += self.dtype.type(offset)
        self._weights = weights

    def state_dict(
        self, *, names: Literal["torch", "huggingface"] = "torch"
    ) -> dict[str, NDArray[Any]]:
        """Return copies of all weights, as `load_state_dict` reads them.

        Parameters
        ----------
        names : {"torch", "huggingface"}
            Whose names, see `load_state_dict`. torch.nn.MultiheadAttention itself can load them if
            kv_heads is num_heads, num_heads * head_dim is embed_dim, and there are no norms or
            sinks. The offset of norms is included.

        Returns
        -------
        dict of str to ndarray
            Float arrays, weights as (out_features, in_features).
        """
        if names == "huggingface":
            return {name: array.copy() for name, array in self._weights.items()}
        if names != "torch":
            raise ValueError(f'names must be "torch" or "huggingface", got {names!r}')
        return layer_weights.to_torch(self._weights)

    def _in_features(self, projection: str) -> int:
        return self._shapes[f"{projection}.weight"][1]

    def _project(self, projection: str, x: NDArray[Any]) -> NDArray[Any]:
        """Apply one of the four maps to the last axis of x, and the norm of the heads behind it."""
        weight = self._weights[f"{projection}.weight"]
        rows: NDArray[Any] = x.reshape(-1, x.shape[-1]) @ weight.T  # one product, whatever the rank
        bias = self._weights.get(f"{projection}.bias")
        if bias is not None:
            rows += bias
        norm = self._weights.get(_NORMS.get(projection, ""))
        if norm is not None:
            # A view: of each head, or of all together.
            heads = rows.reshape(len(rows), -1, len(norm))
            mean_square = np.square(heads).mean(axis=-1, keepdims=True)
            heads /= np.sqrt(mean_square + self.dtype.type(self.norm_eps))
            heads *= norm
        return rows.reshape(*x.shape[:-1], len(weight))
