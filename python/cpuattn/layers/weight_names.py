"""Names of the weights of attention layers, in torch, Hugging Face's transformers and elsewhere.

All are brought to the names of most models: q_proj.weight, k_proj.bias, ..., out_proj.weight.
"""

from typing import Any

from numpy.typing import NDArray

INPUTS = ("q_proj", "k_proj", "v_proj")

# How query, key and value lie in one matrix, by the name of its module; "" where that is open.
FUSED = {
    "in_proj": "concatenated",  # torch
    "qkv_proj": "concatenated",  # Phi-3
    "Wqkv": "concatenated",  # MPT, ModernBERT
    "W_pack": "concatenated",  # Baichuan
    "qkv": "concatenated",  # vision transformers
    "query_key_value": "grouped",  # GPT-NeoX, BLOOM, Falcon
    "wqkv": "grouped",  # InternLM 2
    "c_attn": "",  # GPT-2 (a Conv1D), GPTBigCode (either), Qwen (concatenated)
}

_MODULES = {
    "q_proj": ("query", "q_lin", "q", "to_q", "wq"),  # BERT, DistilBERT, T5, Diffusers, Llama
    "k_proj": ("key", "k_lin", "k", "to_k", "wk"),
    "v_proj": ("value", "v_lin", "v", "to_v", "wv"),
    # Llama, BERT, GPT-NeoX, DistilBERT, T5, Diffusers, Llama of Meta, ModernBERT, GPT-2, vision
    "out_proj": (
        *("o_proj", "output.dense", "dense", "out_lin", "o", "to_out.0", "wo", "Wo", "c_proj"),
        "proj",
    ),
}
_RENAMED = {theirs: ours for ours, modules in _MODULES.items() for theirs in modules}

_OF_TORCH = {
    "in_proj_weight": "in_proj.weight",
    "in_proj_bias": "in_proj.bias",
    # where key or value have other features than query
    **{f"{projection}_weight": f"{projection}.weight" for projection in INPUTS},
}

# Modules that a layer's prefix may leave in front of the names.
_INNER = frozenset(
    {"attention", "self", "attn", "self_attn", "self_attention", "SelfAttention", "EncDecAttention"}
)

_BUFFERS = ("inv_freq", "original_inv_freq", "cos_cached", "sin_cached", "masked_bias")


def canonical(name: str) -> str:
    """Return our name of a weight; a name that is not known comes without inner modules."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _INNER:
        parts = parts[1:]
    *path, kind = parts
    module = ".".join(path)
    module = _RENAMED.get(module, module)
    return f"{module}.{kind}" if module else _OF_TORCH.get(kind, kind)


def holds_no_weight(name: str, array: NDArray[Any]) -> bool:
    """Whether an entry of that canonical name is nothing that the layer computes with.

    Those are buffers of rotary tables and causal masks, and BERT's LayerNorm, which is applied to
    the sum of the layer's input and output.
    """
    if name.startswith(("output.LayerNorm.", "LayerNorm.")):
        return True
    if name.rpartition(".")[2] in _BUFFERS:
        return True
    # GPT-2's and GPT-NeoX's causal mask.
    return name == "bias" and array.ndim == 4 and array.shape[0] == array.shape[1] == 1
