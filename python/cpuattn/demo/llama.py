"""Models of the Llama architecture in GGUF files, as decoders on cpuattn.

Tensors are (out, in) matrices; the decoder multiplies by their transposed views. The rows of query
and key weights are permuted in these files, so that rotary positions turn neighboring features.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cpuattn.demo.decoder import Array, Block, Config, Decoder, rope_frequencies
from cpuattn.demo.errors import DemoError
from cpuattn.demo.gguf_file import GGUFFile

PARTS = [f"attn_{part}" for part in ("norm", "q", "k", "v", "output")]
PARTS += [f"ffn_{part}" for part in ("norm", "gate", "up", "down")]
OPTIONAL = {"output.weight", "rope_freqs.weight"}


def build_decoder(model: GGUFFile) -> Decoder:
    """Return a model on cpuattn.

    Parameters
    ----------
    model : GGUFFile
        Its weights are not copied, but for those that are joined.

    Returns
    -------
    Decoder

    Raises
    ------
    DemoError
        If the model is of another architecture, or has parts that the decoder has not.
    """
    architecture = model.value("general.architecture")
    if architecture != "llama":
        raise DemoError(f"the model is of the architecture {architecture!r}; this demo runs llama")
    layers = range(model.value("llama.block_count"))
    _check_parts(model, len(layers))
    weights = model.weights
    return Decoder(
        _config(model),
        weights["token_embd.weight"],
        [_block(weights, f"blk.{layer}") for layer in layers],
        weights["output_norm.weight"],
        weights.get("output.weight"),
    )


def _config(model: GGUFFile) -> Config:
    heads: int = model.value("llama.attention.head_count")
    head_dim = model.value(
        "llama.attention.key_length", model.value("llama.embedding_length") // heads
    )
    return Config(
        heads=heads,
        kv_heads=model.value("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        context=model.value("llama.context_length"),
        frequencies=_frequencies(model, head_dim),
        epsilon=model.value("llama.attention.layer_norm_rms_epsilon"),
    )


def _frequencies(model: GGUFFile, head_dim: int) -> NDArray[np.float64]:
    features = model.value("llama.rope.dimension_count", head_dim)
    frequencies = rope_frequencies(model.value("llama.rope.freq_base", 10_000.0), features)
    if "rope_freqs.weight" in model.weights:  # Llama 3.1: low frequencies are slowed down
        frequencies = frequencies / model.weights["rope_freqs.weight"]
    scaling = model.value("llama.rope.scaling.type", "none")
    if scaling == "linear":
        factor: float = model.value("llama.rope.scaling.factor")
        return frequencies / factor
    if scaling != "none":
        raise DemoError(
            f"the model scales its rotary positions by {scaling!r}; this demo knows linear"
        )
    return frequencies


def _check_parts(model: GGUFFile, layers: int) -> None:
    """Refuse biases, experts and whatever else would silently be left out."""
    needed = {f"blk.{layer}.{part}.weight" for layer in range(layers) for part in PARTS}
    needed |= {"token_embd.weight", "output_norm.weight"}
    found = model.weights.keys()
    for complaint, names in (
        ("lacks the tensor", needed - found),
        ("has a tensor that this demo does not know:", found - needed - OPTIONAL),
    ):
        if names:
            raise DemoError(f"the model {complaint} {min(names)}")


def _block(weights: Mapping[str, Array], name: str) -> Block:
    query_key_value = [weights[f"{name}.attn_{part}.weight"] for part in "qkv"]
    gate_up = [weights[f"{name}.ffn_{part}.weight"] for part in ("gate", "up")]
    return Block(
        attention_norm=weights[f"{name}.attn_norm.weight"],
        query_key_value=np.concatenate(query_key_value).T,
        output=weights[f"{name}.attn_output.weight"].T,
        feed_forward_norm=weights[f"{name}.ffn_norm.weight"],
        gate_up=np.concatenate(gate_up).T,
        down=weights[f"{name}.ffn_down.weight"].T,
    )
