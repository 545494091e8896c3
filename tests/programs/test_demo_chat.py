"""`python -m cpuattn demo chat` with a small random model: nothing is downloaded."""

import dataclasses
import hashlib
import io
import itertools
import re
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpuattn
from cpuattn import __main__ as cli

for package in ("gguf", "jinja2", "rich", "tokenizers"):
    pytest.importorskip(package, reason='needs pip install ".[demo]"')

from cpuattn.demo import smollm2, smollm2_numpy  # noqa: E402
from cpuattn.demo.chat_template import ChatTemplate  # noqa: E402
from cpuattn.demo.conversation import Answer, Conversation  # noqa: E402
from cpuattn.demo.gguf_file import GGUFFile  # noqa: E402
from cpuattn.demo.gguf_tokenizer import build_tokenizer  # noqa: E402
from cpuattn.demo.sampling import Sampler  # noqa: E402
from small_smollm2 import CONTEXT, HEAD_DIM, KV_HEADS, LAYERS, SPECIAL, write_gguf  # noqa: E402

END = SPECIAL.index("<|im_end|>")
FRAME = len(["<|im_start|>", *"system\nbe", " ", *"a", " c", "at", "<|im_end|>", "\n"])
FRAME += len(["<|im_start|>", "user", "\n", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"])
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
def model(wheel: Path) -> GGUFFile:
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


def chat_ids(model: GGUFFile, *contents: str) -> list[int]:
    template = ChatTemplate(model, build_tokenizer(model))
    roles = ("user", "assistant") * len(contents)
    return template.ids(
        [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    )


def greedy(model: GGUFFile, count: int, *contents: str) -> str:
    """Answer by the NumPy reference, recomputing everything for every token."""
    ids = chat_ids(model, *contents)
    for _ in range(count):
        logits = smollm2_numpy.logits(model.weights, model.value, ids)
        ids.append(int(logits[-1].argmax()))
    return str(build_tokenizer(model).decode(ids[-count:]))


def test_answer_is_that_of_numpy(
    ask: Any, model: GGUFFile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("cat", "--tokens", "12") == 0
    # Half a character at the end is held back.
    expected = greedy(model, 12, "cat").rstrip("\ufffd")
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
    assert ask("c" * 50) == 0
    output = capsys.readouterr().out
    room = CONTEXT - FRAME - 50
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
        assert captured.err.endswith(
            f"error: the text has {CONTEXT} tokens with its frame and what was said before, but "
            f"this model's context holds {CONTEXT}, written ones included\n"
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


def say(model: GGUFFile, tokens: list[int]) -> tuple[Answer, list[str]]:
    """Write given tokens, whatever the model thinks; give what was shown too."""
    rest = iter(tokens)
    pieces: list[str] = []
    conversation = Conversation(model, lambda _logits: next(rest))
    return conversation.ask("cat", 20, pieces.append), pieces


def test_the_model_ends_the_answer(model: GGUFFile) -> None:
    ids = build_tokenizer(model).encode("a cat").ids
    answer, pieces = say(model, [*ids, END, ids[0]])
    assert "".join(pieces) == "a cat"
    assert answer.tokens == [*ids, END]
    assert answer.ending == "ended by the model"
    assert not answer.interrupted


def test_characters_are_shown_whole(model: GGUFFile) -> None:
    ids = build_tokenizer(model).encode("é猫!").ids
    assert len(ids) == 2 + 3 + 1  # bytes
    _, pieces = say(model, [*ids, END])
    assert pieces == ["é", "猫", "!"]


def test_conversation_is_that_of_a_model_without_a_cache(
    ask: Any, model: GGUFFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_on_stdin(monkeypatch, "cat", "", "user")
    assert ask("--tokens", "5") == 0
    output = capsys.readouterr().out
    first = greedy(model, 5, "cat")
    second = greedy(model, 5, "cat", first, "user")
    for text, answer in (("cat", first), ("user", second)):
        assert f"> {text}\n{answer.rstrip(chr(0xFFFD))}" in output
    summaries = re.findall(r"\[read (\d+) tokens, (\d+) were in the cache; wrote 5, ", output)
    (read, kept), (more, had) = [tuple(map(int, found)) for found in summaries]
    assert (read, kept) == (len(chat_ids(model, "cat")), 0)
    assert more + had == len(chat_ids(model, "cat", first, "user"))
    assert had >= read  # the first prompt was not read again


def test_reset_forgets(
    ask: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_on_stdin(monkeypatch, "cat", "/reset", "/what", "cat", "/exit", "cat")
    assert ask("--tokens", "5", "--system", "user") == 0
    output = capsys.readouterr().out
    answers = re.findall(
        r"> cat\n(.*?)\n\[read (\d+) tokens, 0 were in the cache", output, re.DOTALL
    )
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert "(/what is no command; there are /reset and /exit)" in output


def test_conversation_goes_on_where_a_text_is_too_long(
    ask: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_on_stdin(monkeypatch, "c" * CONTEXT, "cat")
    assert ask("--tokens", "2") == 0
    output = capsys.readouterr().out
    assert "written ones included: /reset begins anew)" in output
    assert "0 were in the cache; wrote 2" in output


def say_on_stdin(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_interrupted_conversation_goes_on(model: GGUFFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between two layers: what all of them have stays in the caches."""
    sampler = Sampler(0, 1, 0)
    attend, interrupt = cpuattn.KVCache.attend, {3 * LAYERS}
    calls = itertools.count()

    def interrupted(self: cpuattn.KVCache, *args: Any, **options: Any) -> Any:
        if next(calls) in interrupt:
            raise KeyboardInterrupt
        return attend(self, *args, **options)

    monkeypatch.setattr(cpuattn.KVCache, "attend", interrupted)
    conversation = Conversation(model, sampler)
    broken = conversation.ask("cat", 9, str)
    assert broken.interrupted
    assert len(broken.tokens) == 3
    assert {int(cache.lengths[0]) for cache in conversation.caches} == {broken.prompt_tokens + 2}
    interrupt.clear()
    second = conversation.ask("user", 5, str)
    fresh = Conversation(model, sampler)
    fresh.messages = conversation.messages[:2]
    assert fresh.ask("user", 5, str).tokens == second.tokens


def test_unquoted_words_are_one_text(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("a", "cat", "--tokens", "4", "c") == 0
    first = written(capsys.readouterr().out)
    assert ask("a cat c", "--tokens", "4") == 0
    assert written(capsys.readouterr().out) == first


def test_system_changes_the_answer(
    ask: Any, model: GGUFFile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("cat", "--tokens", "3") == 0
    default = capsys.readouterr().out
    assert ask("cat", "--tokens", "3", "--system", "be a cat") == 0
    assert written(capsys.readouterr().out) == written(default)
    assert ask("cat", "--tokens", "3", "--system", "user") == 0
    encode = build_tokenizer(model).encode
    prompt = FRAME + 2 - len(encode("be a cat").ids) + len(encode("user").ids)
    assert f"prompt: {prompt} tokens" in capsys.readouterr().out


def test_any_file_of_the_architecture(
    tmp_path: Path, ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(tmp_path / "own.gguf")
    assert ask("cat", "--tokens", "3") == 0
    expected = written(capsys.readouterr().out)
    assert ask("cat", "--tokens", "3", "--model", str(tmp_path / "own.gguf")) == 0
    output = capsys.readouterr().out
    assert output.startswith("own.gguf: ")
    assert written(output) == expected


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model" * 99])
def test_other_files_are_refused(
    content: bytes, tmp_path: Path, ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(content)
    assert ask("cat", "--model", str(path)) == 2
    assert "own.gguf: not a GGUF file that can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([" "], "text"),
        (["a", "b\udcff"], "must be UTF-8 text"),
        (["a", "--system", "\udcff"], "must be UTF-8 text"),
        (["a", "--model", "no-such.gguf"], "no-such.gguf: no such file"),
        (["a", "--model", "/dev/zero"], "/dev/zero: not a regular file"),
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


def test_logits_of_the_small_model_are_no_ties(model: GGUFFile) -> None:
    # Else greedy answers could differ by rounding, and prove nothing above.
    ids = chat_ids(model, "cat")
    best = np.sort(smollm2_numpy.logits(model.weights, model.value, ids)[-1])[-2:]
    assert best[1] - best[0] > 1e-3
