"""How `python -m cpuattn demo minilm` splits files into passages."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from cpuattn.demo.errors import DemoError
from cpuattn.demo.passages import Passage, read_passages


def count_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def split(tmp_path: Path, text: str, budget: int = 100) -> list[Passage]:
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    return read_passages(path, count_words, budget)


def test_paragraphs_are_packed_up_to_the_budget(tmp_path: Path) -> None:
    paragraph = " ".join(["word"] * 40)
    passages = split(tmp_path, f"\n\n{paragraph}\n \n{paragraph}\n\n\n{paragraph}\n")
    assert [passage.line for passage in passages] == [3, 8]
    assert count_words([passage.text for passage in passages]) == [80, 40]


def test_long_paragraphs_are_split_at_sentences(tmp_path: Path) -> None:
    sentence = "He said (in v. 2 of it):\n" + "word " * 55 + 'no more."'
    passages = split(tmp_path, f"{sentence} {sentence} {sentence}")
    assert [passage.text for passage in passages] == [sentence] * 3
    assert [passage.line for passage in passages] == [1, 2, 3]


@pytest.mark.parametrize("separator", [" ", "\n", "\n\n", ". ", ", "])
def test_no_word_is_lost(tmp_path: Path, separator: str) -> None:
    text = separator.join(f"word{number}" for number in range(1234))
    passages = split(tmp_path, text)
    assert " ".join(p.text for p in passages).split() == text.split()
    assert max(count_words([passage.text for passage in passages])) <= 100
    assert len(passages) == math.ceil(1234 / 100)


def test_a_word_without_end_is_cut(tmp_path: Path) -> None:
    passages = read_passages(
        _written(tmp_path, b"A" * 1000), lambda texts: [len(text) for text in texts], 100
    )
    assert [len(passage.text) for passage in passages] == [100] * 10


@pytest.mark.parametrize(
    ("content", "message"), [(b"caf\xe9", "not UTF-8 text (byte 3)"), (b"a\0b", "a binary file")]
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DemoError) as error:
        read_passages(_written(tmp_path, content), count_words, 100)
    assert message in str(error.value)


@pytest.mark.parametrize("content", [b"", b" \n\n\t"])
def test_files_without_text(tmp_path: Path, content: bytes) -> None:
    assert read_passages(_written(tmp_path, content), count_words, 100) == []


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path
