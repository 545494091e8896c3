"""The linear maps of an attention layer, and the loading and saving of their weights."""

from __future__ import annotations  # help() then shows ArrayLike, and not what it stands for

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpuattn import _layer_weights


class Projections:
    """Four linear maps: query, key and value from their inputs, and the output from the heads.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape of every weight and bias, from `_layer_weights.shapes`.
    dtype : dtype
        Of all weights, float32 or float64.
    rng : int or numpy.random.Generator, optional
        Source of the initial weights.
    """

    def __init__(
        self,
        shapes: _layer_weights.Shapes,
        dtype: np.dtype[Any],
        rng: int | np.random.Generator | None,
    ) -> None:
        self.dtype = dtype
        self._shapes = shapes
        self._weights = _layer_weights.initial(shapes, dtype, np.random.default_rng(rng))

    def load_state_dict(self, state: Mapping[str, ArrayLike], *, prefix: str = "") -> None:
        """Replace all weights by those of a checkpoint.

        Parameters
        ----------
        state : mapping of str to array of float
            Weights (out_features, in_features) and biases under the names of
            torch.nn.MultiheadAttention (in_proj_weight or q_proj_weight, k_proj_weight and
            v_proj_weight; in_proj_bias; out_proj.weight, out_proj.bias) or of Hugging Face
            (q_proj.weight, q_proj.bias, k_proj..., v_proj..., o_proj... or out_proj...). They are
            copied and converted to the dtype of the layer. Where a projection has no bias but
            another has one, it is left without.
        prefix : str, default ""
            Only names that begin with it are read, such as "model.layers.0.self_attn.".

        Raises
        ------
        TypeError
            If an array is not of float.
        ValueError
            If a name is missing or unexpected, or a shape is wrong. The layer is then unchanged.
        """
        chosen = {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}
        self._weights = _layer_weights.from_state_dict(chosen, self._shapes, self.dtype)

    def state_dict(
        self, *, names: Literal["torch", "huggingface"] = "torch"
    ) -> dict[str, NDArray[Any]]:
        """Return copies of all weights, as `load_state_dict` reads them.

        Parameters
        ----------
        names : {"torch", "huggingface"}
            Whose names, see `load_state_dict`. torch.nn.MultiheadAttention itself can load them if
            kv_heads is num_heads and num_heads * head_dim is embed_dim.

        Returns
        -------
        dict of str to ndarray
            Float arrays, weights as (out_features, in_features).
        """
        if names == "huggingface":
            return {name: array.copy() for name, array in self._weights.items()}
        if names != "torch":
            raise ValueError(f'names must be "torch" or "huggingface", got {names!r}')
        return _layer_weights.to_torch(self._weights)

    def _in_features(self, projection: str) -> int:
        return self._shapes[f"{projection}.weight"][1]

    def _project(self, projection: str, x: NDArray[Any]) -> NDArray[Any]:
        """Apply one of the four maps to the last axis of x."""
        weight = self._weights[f"{projection}.weight"]
        rows: NDArray[Any] = x.reshape(-1, x.shape[-1]) @ weight.T  # one product, whatever the rank
        bias = self._weights.get(f"{projection}.bias")
        if bias is not None:
            rows += bias
        return rows.reshape(*x.shape[:-1], len(weight))
