"""ONNX operators as classes for ``onnx.reference.ReferenceEvaluator(model, new_ops=[...])``.

They compute Attention and RotaryEmbedding by cpuattn; the evaluator keeps every other operator of
the model. Needs the package onnx: ``pip install ".[onnx]"``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpuattn import rotary_embedding
from cpuattn.integrations._onnx_inputs import as_floats, split_heads
from cpuattn.integrations.onnx import attention

try:
    from onnx.reference.op_run import OpRun
except ModuleNotFoundError as error:
    raise ImportError('cpuattn.integrations.onnx_ops needs onnx: pip install ".[onnx]"') from error

__all__ = ["Attention", "RotaryEmbedding"]

Array = NDArray[Any]


class Attention(OpRun):
    """The operator Attention of opsets 23, 24 and 25, by `cpuattn.integrations.onnx.attention`.

    Examples
    --------
    >>> from onnx.parser import parse_model
    >>> from onnx.reference import ReferenceEvaluator
    >>> from cpuattn.integrations.onnx_ops import Attention
    >>> model = parse_model('''
    ...     <ir_version: 10, opset_import: ["": 23]>
    ...     graph (float[1,1,2,1] Q, float[1,1,2,1] V) => (float[1,1,2,1] Y) {
    ...         Y = Attention <is_causal = 1> (Q, Q, V)
    ...     }''')
    >>> evaluator = ReferenceEvaluator(model, new_ops=[Attention])
    >>> Q, V = np.zeros((1, 1, 2, 1), "float32"), np.array([[[[2], [4]]]], "float32")
    >>> evaluator.run(None, {"Q": Q, "V": V})
    [array([[[[2.],
             [3.]]]], dtype=float32)]
    """

    def _run(  # noqa: PLR0917 (the operator's inputs, in its order)
        self,
        Q: Array,
        K: Array,
        V: Array,
        attn_mask: Array | None = None,
        past_key: Array | None = None,
        past_value: Array | None = None,
        nonpad_kv_seqlen: Array | None = None,
        *,
        qk_matmul_output_mode: int = 0,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        if attn_mask is not None and attn_mask.shape[-1:] == (1,) and self._opset() < 24:
            total = K.shape[-2] + (0 if past_key is None else past_key.shape[-2])
            attn_mask = np.broadcast_to(attn_mask, (*attn_mask.shape[:-1], total))
        names = list(self.output)
        outputs = attention(
            Q,
            K,
            V,
            attn_mask,
            past_key,
            past_value,
            nonpad_kv_seqlen,
            qk_matmul_output_mode=qk_matmul_output_mode if any(names[3:]) else None,
            **attributes,
        )
        return tuple(x for x in outputs if x is not None)

    def _opset(self) -> int:
        opsets: dict[str, int] = self.run_params["opsets"]
        return opsets[self.domain]


class RotaryEmbedding(OpRun):
    """The operator RotaryEmbedding of opset 23, by `cpuattn.rotary_embedding`."""

    def _run(
        self,
        X: Array,
        cos_cache: Array,
        sin_cache: Array,
        position_ids: Array | None = None,
        *,
        interleaved: int = 0,
        rotary_embedding_dim: int = 0,
        num_heads: int | None = None,
    ) -> tuple[Array]:
        x = split_heads("X", as_floats("X", X), "num_heads", num_heads)
        turned = rotary_embedding_dim or x.shape[-1]
        if 2 * cos_cache.shape[-1] != turned:
            raise ValueError(
                f"cos_cache has {cos_cache.shape[-1]} angles; it must have half of the "
                f"{turned} features that are to be turned"
            )
        out = rotary_embedding(
            x, cos_cache, sin_cache, positions=position_ids, interleaved=bool(interleaved)
        )
        return (out if X.ndim == 4 else out.swapaxes(1, 2).reshape(X.shape),)
