"""The models of the PyPI package glassllm, as decoders on cpuattn.

Four blocks of 4 query heads over 2 key/value heads (grouped-query attention), head_dim 32, 1024
tokens. The package's weights and configuration are read, its code is not run.
"""

from collections.abc import Mapping
from typing import Any

import glassllm
import numpy as np

from cpuattn.demo.decoder import Array, Block, Config, Decoder, rope_frequencies


def load(language: str) -> tuple[Decoder, Any, Any]:
    """Load a model that ships in the glassllm package.

    Parameters
    ----------
    language : {"en", "pt"}
        English (trained on Lewis Carroll) or Portuguese (Machado de Assis).

    Returns
    -------
    decoder : Decoder
        The model on cpuattn.
    model : glassllm.GlassLM
        The package's own NumPy model: the reference.
    tokenizer : glassllm.Tokenizer
        Its byte-pair tokenizer.
    """
    model, tokenizer = glassllm.load_pretrained(language)
    weights = {name: tensor.data for name, tensor in model.named_parameters().items()}
    head_dim = model.cfg.d_model // model.cfg.n_heads
    config = Config(
        heads=model.cfg.n_heads,
        kv_heads=model.cfg.n_kv_heads,
        head_dim=head_dim,
        context=model.cfg.max_len,
        frequencies=rope_frequencies(model.cfg.rope_base, head_dim),
        epsilon=model.cfg.eps,
    )
    blocks = [_block(weights, f"blocks.{layer}") for layer in range(model.cfg.n_layers)]
    return Decoder(config, weights["E"], blocks, weights["norm_f.gamma"]), model, tokenizer


def _block(weights: Mapping[str, Array], name: str) -> Block:
    """Join what the package keeps apart; its matrices are (in, out)."""
    query_key_value = [weights[f"{name}.attn.W_{part}"] for part in "QKV"]
    return Block(
        attention_norm=weights[f"{name}.norm1.gamma"],
        query_key_value=np.concatenate(query_key_value, axis=1),
        output=weights[f"{name}.attn.W_O"],
        feed_forward_norm=weights[f"{name}.norm2.gamma"],
        gate_up=np.concatenate([weights[f"{name}.ffn.W1"], weights[f"{name}.ffn.W3"]], axis=1),
        down=weights[f"{name}.ffn.W2"],
    )
