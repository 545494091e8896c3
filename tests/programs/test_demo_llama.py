"""GGUF files of the Llama architecture: what the demos run, and what they refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

for package in ("gguf", "jinja2", "rich", "tokenizers"):
    pytest.importorskip(package, reason='needs pip install ".[demo]"')

import gguf  # noqa: E402

from cpuattn.demo.decoder import rope_frequencies  # noqa: E402
from cpuattn.demo.errors import DemoError  # noqa: E402
from cpuattn.demo.gguf_file import GGUFFile  # noqa: E402
from cpuattn.demo.gguf_tokenizer import build_tokenizer  # noqa: E402
from cpuattn.demo.llama import build_decoder  # noqa: E402
from small_smollm2 import HEAD_DIM, TOKENS, WIDTH, random_tensors, write_gguf  # noqa: E402

IDS = [3, 40, 5, 60, 7]


class Fields(GGUFFile):
    """A file with some fields that are other than those in it."""

    def __init__(self, path: Path, **fields: Any) -> None:
        super().__init__(path)
        self._fields |= {name.replace("__", "."): value for name, value in fields.items()}


def logits(model: GGUFFile) -> Any:
    decoder = build_decoder(model)
    return decoder.logits(IDS, decoder.new_caches())


def small(path: Path, **tensors: Any) -> Path:
    write_gguf(path, random_tensors() | {n.replace("__", "."): t for n, t in tensors.items()})
    return path


def test_head_of_its_own(tmp_path: Path) -> None:
    tied = GGUFFile(small(tmp_path / "tied.gguf"))
    head = np.roll(random_tensors()["token_embd.weight"], 1, axis=0)
    own = GGUFFile(small(tmp_path / "own.gguf", output__weight=head))
    own.weights["output.weight"] = np.roll(tied.weights["token_embd.weight"], 1, axis=0)
    np.testing.assert_allclose(logits(own), np.roll(logits(tied), 1), rtol=1e-5, atol=1e-5)
    described = [build_decoder(model).describe() for model in (tied, own)]
    counts = [int(text.split()[0].replace(",", "")) for text in described]
    assert counts[1] - counts[0] == len(TOKENS) * WIDTH


def test_frequencies_of_rotary_positions(tmp_path: Path) -> None:
    path = small(tmp_path / "a.gguf")
    expected = rope_frequencies(100.0, HEAD_DIM)

    def frequencies(model: GGUFFile) -> Any:
        return build_decoder(model).config.frequencies

    np.testing.assert_allclose(frequencies(GGUFFile(path)), expected, rtol=1e-12)
    linear = Fields(path, llama__rope__scaling__type="linear", llama__rope__scaling__factor=4.0)
    np.testing.assert_allclose(frequencies(linear), expected / 4, rtol=1e-12)
    partial = Fields(path, llama__rope__dimension_count=HEAD_DIM // 2)
    np.testing.assert_allclose(
        frequencies(partial), rope_frequencies(100.0, HEAD_DIM // 2), rtol=1e-12
    )
    factors = np.linspace(1, 8, HEAD_DIM // 2, dtype=np.float32)
    slow = GGUFFile(small(tmp_path / "b.gguf", rope_freqs__weight=factors))
    np.testing.assert_allclose(frequencies(slow), expected / factors, rtol=1e-12)
    assert np.abs(logits(slow) - logits(GGUFFile(path))).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"general__architecture": "qwen2"}, "of the architecture 'qwen2'; this demo runs llama"),
        ({"llama__rope__scaling__type": "yarn"}, "by 'yarn'; this demo knows linear"),
        ({"llama__block_count": 3}, "lacks the tensor blk.2.attn_k.weight"),
        ({"llama__block_count": 1}, "does not know: blk.1.attn_k.weight"),
    ],
)
def test_other_models_are_refused(fields: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=complaint):
        build_decoder(Fields(small(tmp_path / "a.gguf"), **fields))


def test_biases_are_refused(tmp_path: Path) -> None:
    bias = np.ones(WIDTH, np.float32)
    model = GGUFFile(small(tmp_path / "a.gguf", blk__0__attn_q__bias=bias))
    with pytest.raises(DemoError, match=r"does not know: blk\.0\.attn_q\.bias"):
        build_decoder(model)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"tokenizer__ggml__model": "bert"}, "of the kind 'bert'"),
        ({"tokenizer__ggml__pre": "tekken"}, "by 'tekken'; default, gpt-2, llama-bpe"),
    ],
)
def test_other_tokenizers_are_refused(fields: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=complaint):
        build_tokenizer(Fields(small(tmp_path / "a.gguf"), **fields))


def test_missing_field_is_named(tmp_path: Path) -> None:
    model = GGUFFile(small(tmp_path / "a.gguf"))
    with pytest.raises(DemoError, match=r"a\.gguf: has no field llama\.nothing"):
        model.value("llama.nothing")


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("smollm", ["Ġ", "1", "2", "3", "4", "!", "Ġ", "Ġc"]),
        ("gpt-2", ["Ġ1234", "!", "Ġ", "Ġc"]),
        ("llama-bpe", ["Ġ", "123", "4", "!", "Ġ", "Ġc"]),
        ("qwen2", ["Ġ", "1", "2", "3", "4", "!", "Ġ", "Ġc"]),
    ],
)
def test_words_before_the_merges(pre: str, words: list[str], tmp_path: Path) -> None:
    tokenizer = build_tokenizer(Fields(small(tmp_path / "a.gguf"), tokenizer__ggml__pre=pre))
    cut = tokenizer.pre_tokenizer.pre_tokenize_str(" 1234!  c")
    assert [word for word, _ in cut] == words


def sentence_piece(path: Path) -> Path:
    """Write the tokenizer of a model of Llama 2's kind: pieces with scores, bytes for the rest."""
    pieces = {"<unk>": (0, 2), "<s>": (0, 3), "</s>": (0, 3)}
    pieces |= {f"<0x{byte:02X}>": (0, 6) for byte in range(256)}
    for rank, piece in enumerate(["ab", "▁a", "bc", "▁ab", "▁abc", "abc"]):
        pieces[piece] = (-rank, 1)
    pieces |= {letter: (-100 - n, 1) for n, letter in enumerate("▁abc")}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(pieces))
    writer.add_token_scores([float(score) for score, _ in pieces.values()])
    writer.add_token_types([kind for _, kind in pieces.values()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        # The pair with the best score joins first: "ab", so that "▁a" and "bc" cannot.
        ("abc", ["▁abc"]),
        ("bc ab", ["▁", "bc", "▁ab"]),
        ("aé", ["▁a", "<0xC3>", "<0xA9>"]),
        ("</s>", ["▁", "<0x3C>", "<0x2F>", "<0x73>", "<0x3E>"]),
    ],
)
def test_sentence_piece(text: str, pieces: list[str], tmp_path: Path) -> None:
    tokenizer = build_tokenizer(GGUFFile(sentence_piece(tmp_path / "a.gguf")))
    encoding = tokenizer.encode(text)
    assert encoding.tokens == pieces
    assert tokenizer.decode(encoding.ids) == text
