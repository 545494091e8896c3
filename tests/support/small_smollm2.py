"""A random model in the layout of SmolLM2's GGUF file, small enough for tests."""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["u s", "e r", "us er", "Ġ c", "a t"]
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, CONTEXT = 96, 64, 2, 6, 2, 96
HEAD_DIM = WIDTH // HEADS
# As the real one, with another instruction to the model.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nbe a cat<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_gguf(
    path: Path,
    tensors: dict[str, NDArray[np.float32]] | None = None,
    *,
    template: str | None = TEMPLATE,
    architecture: str = "llama",
    pre: str = "smollm",
) -> dict[str, NDArray[np.float32]]:
    """Write the file; return its tensors as they were before they were quantised."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    if template is not None:
        writer.add_chat_template(template)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(SPECIAL.index("<|im_end|>"))
    tensors = random_tensors() if tensors is None else tensors
    for name, tensor in tensors.items():
        kind = gguf.GGMLQuantizationType.Q4_1
        if tensor.ndim == 1:
            kind = gguf.GGMLQuantizationType.F32
        elif name == "token_embd.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def random_tensors() -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(4)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for layer in range(LAYERS):
        for part, shape in {
            "attn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (KV_HEADS * HEAD_DIM, WIDTH),
            "attn_v": (KV_HEADS * HEAD_DIM, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (HIDDEN, WIDTH),
            "ffn_up": (HIDDEN, WIDTH),
            "ffn_down": (WIDTH, HIDDEN),
        }.items():
            shapes[f"blk.{layer}.{part}.weight"] = shape
    return {name: generator.normal(0, 0.3, shape).astype("f4") for name, shape in shapes.items()}
