"""`python -m cpuattn demo chat` with a small random model: nothing is downloaded."""

import dataclasses
import hashlib
import re
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpuattn
from cpuattn import __main__ as cli

for package in ("gguf", "rich", "tokenizers"):
    pytest.importorskip(package, reason='needs pip install "cpuattn[demo]"')

from cpuattn.demo import chat, smollm2, smollm2_numpy  # noqa: E402
from small_smollm2 import CONTEXT, HEAD_DIM, KV_HEADS, LAYERS, SPECIAL, write_gguf  # noqa: E402

END = SPECIAL.index("<|im_end|>")
FRAME = len(["<|im_start|>", "user", "\n", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"])
# Of a key or value of one token and head; int8 has a float32 scale beside it.
BYTES = {
    "float32": 4 * HEAD_DIM,
    "float16": 2 * HEAD_DIM,
    "bfloat16": 2 * HEAD_DIM,
    "int8": HEAD_DIM + 4,
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip file laid out like the real wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(folder / "small.gguf")
    with zipfile.ZipFile(folder / "small.whl", "w") as archive:
        archive.write(folder / "small.gguf", smollm2.MEMBER)
    return folder / "small.whl"


@pytest.fixture
def model(wheel: Path) -> smollm2.GGUFModel:
    return smollm2.read_wheel(wheel)


@pytest.fixture
def ask(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command with the small wheel pinned in place of the real one."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    pinned = dataclasses.replace(smollm2.WHEEL, filename=wheel.name, sha256=digest)
    monkeypatch.setattr(smollm2, "WHEEL", pinned)

    def run(*arguments: str) -> int:
        return cli.main(["demo", "chat", "--cache", str(wheel.parent), *arguments])

    return run


def written(output: str) -> str:
    """Give the answer in what the command printed."""
    found = re.search(r"context \d+\n\n(.*)\n\nprompt: ", output, re.DOTALL)
    assert found, output
    return found[1]


def greedy(model: smollm2.GGUFModel, text: str, count: int) -> str:
    """Answer by the NumPy reference, recomputing everything for every token."""
    tokenizer = smollm2.build_tokenizer(model)
    ids = smollm2.chat_ids(tokenizer, text)
    for _ in range(count):
        logits = smollm2_numpy.logits(model.weights, model.value, ids)
        ids.append(int(logits[-1].argmax()))
    return tokenizer.decode(ids[-count:])


def test_answer_is_that_of_numpy(
    ask: Any, model: smollm2.GGUFModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("cat", "--tokens", "12") == 0
    # Half a character at the end is held back.
    expected = greedy(model, "cat", 12).rstrip("\ufffd")
    assert written(capsys.readouterr().out) == expected


@pytest.mark.parametrize("dtype", BYTES)
def test_figures(dtype: str, ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("cat", "--tokens", "5", "--cache-dtype", dtype) == 0
    prompt = FRAME + len(["c", "at"])
    token, room = LAYERS * KV_HEADS * 2 * BYTES[dtype], prompt + 5
    size = f"{token * room:,} bytes in {dtype}, {token:,} a token"
    expected = [
        rf"prompt: {prompt} tokens, [\d.]+ tokens/s",
        r"answer: 5 tokens, [\d.]+ tokens/s; --tokens reached",
        r"attention: \d+\.\d% of the time, appending to the cache included",
        rf"cache: {size}, room for {room} tokens in {LAYERS} layers",
    ]
    found = capsys.readouterr().out.splitlines()[-4:]
    for pattern, line in zip(expected, found, strict=True):
        assert re.fullmatch(pattern, line), line


def test_one_token_has_no_further_rate(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("cat", "--tokens", "1") == 0
    assert "answer: 1 tokens; --tokens reached" in capsys.readouterr().out


def test_the_context_ends(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("c" * 40) == 0
    output = capsys.readouterr().out
    room = CONTEXT - FRAME - 40
    assert f"answer: {room} tokens, " in output
    assert f"; the context of {CONTEXT} tokens is full" in output


@pytest.mark.parametrize("spare", [0, 1])
def test_text_must_fit(ask: Any, capsys: pytest.CaptureFixture[str], spare: int) -> None:
    text = "c" * (CONTEXT - FRAME - spare)
    assert ask(text) == (0 if spare else 2)
    captured = capsys.readouterr()
    if spare:
        assert "answer: 1 tokens" in captured.out
    else:
        assert captured.out == ""
        assert captured.err.endswith(
            f"error: the text has {CONTEXT} tokens with its frame, but this model's context holds "
            f"{CONTEXT}, written ones included\n"
        )


def test_a_seed_repeats_a_draw(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hot = ("cat", "--tokens", "20", "--temperature", "3", "--top-p", "1")
    assert ask(*hot) == 0
    first = capsys.readouterr().out
    shown = re.match(r"drawing at temperature 3, top-p 1, --seed (\d+)\n", first)
    assert shown, first
    assert ask(*hot, "--seed", shown[1]) == 0
    assert written(capsys.readouterr().out) == written(first)
    assert ask(*hot, "--seed", str(int(shown[1]) + 1)) == 0
    assert written(capsys.readouterr().out) != written(first)


@pytest.mark.parametrize("options", [["--seed", "3"], ["--top-p", "0.5"]])
def test_greedy_says_what_it_does_not_use(
    options: list[str], ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("cat", "--tokens", "2", *options) == 0
    assert "need a --temperature above 0" in capsys.readouterr().out
    assert ask("cat", "--tokens", "2", *options, "--temperature", "0.5") == 0
    assert "note:" not in capsys.readouterr().out


@pytest.mark.parametrize("tokens", [0, 4])
def test_ctrl_c_ends_the_answer(
    tokens: int, ask: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attend = cpuattn.KVCache.attend
    calls = 0

    def interrupted(self: cpuattn.KVCache, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > tokens * LAYERS:
            signal.raise_signal(signal.SIGINT)
        return attend(self, *args, **options)

    monkeypatch.setattr(cpuattn.KVCache, "attend", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job ignores it
    try:
        assert ask("cat") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    output = capsys.readouterr().out
    assert f"\nanswer: {tokens} tokens" in output
    assert "; interrupted\ncache: " in re.sub("attention: .*\n", "", output)


def say(model: smollm2.GGUFModel, tokens: list[int]) -> chat.Answer:
    """Write given tokens, whatever the model thinks."""
    decoder, tokenizer = smollm2.build_decoder(model), smollm2.build_tokenizer(model)
    rest = iter(tokens)
    return chat.write_answer(
        decoder,
        tokenizer,
        [5, 6],
        decoder.new_caches(),
        choose=lambda _logits: next(rest),
        end=END,
        room=CONTEXT,
    )


def test_the_model_ends_the_answer(
    model: smollm2.GGUFModel, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = smollm2.build_tokenizer(model).encode("a cat").ids
    answer = say(model, [*ids, END, ids[0]])
    assert capsys.readouterr().out == "a cat\n\n"
    assert answer.tokens == [*ids, END]
    assert answer.ending == "ended by the model"
    assert not answer.interrupted


def test_characters_are_printed_whole(
    model: smollm2.GGUFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = smollm2.build_tokenizer(model).encode("é猫!").ids
    assert len(ids) == 2 + 3 + 1  # bytes
    pieces: list[str] = []
    monkeypatch.setattr("builtins.print", lambda text="", **_options: pieces.append(text))
    say(model, [*ids, END])
    assert [piece for piece in pieces if piece] == ["é", "猫", "!", "\n"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "text"),
        ([" "], "text"),
        (["a", "b"], "b"),
        *((["a", f"--tokens={value}"], value) for value in ("0", "-1", "1.5", "many")),
        *((["a", f"--temperature={value}"], value) for value in ("-1", "nan", "inf", "hot")),
        *((["a", f"--top-p={value}"], value) for value in ("0", "1.01", "nan", "half")),
        *((["a", f"--seed={value}"], value) for value in ("-1", "1.5", "x")),
        (["a", "--cache-dtype=float8"], "float8"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], named: str, ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        ask(*arguments)
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


def test_logits_of_the_small_model_are_no_ties(model: smollm2.GGUFModel) -> None:
    # Else greedy answers could differ by rounding, and prove nothing above.
    ids = smollm2.chat_ids(smollm2.build_tokenizer(model), "cat")
    best = np.sort(smollm2_numpy.logits(model.weights, model.value, ids)[-1])[-2:]
    assert best[1] - best[0] > 1e-3
