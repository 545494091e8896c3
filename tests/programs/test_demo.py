"""`python -m cpuattn demo` with the trained model of glassllm."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpuattn import __main__ as cli

glassllm = pytest.importorskip("glassllm", reason='needs pip install ".[demo]"')
pytest.importorskip("matplotlib", reason='needs pip install ".[demo]"')

from matplotlib.image import imread  # noqa: E402

from cpuattn.demo import generate, speed  # noqa: E402
from cpuattn.demo import glassllm as model_on_cpuattn  # noqa: E402
from cpuattn.demo.options import PROMPTS  # noqa: E402
from scripts import ONE_ROUND  # noqa: E402


def test_demo_end_to_end(tmp_path: Path) -> None:
    picture = tmp_path / "weights.png"
    result = subprocess.run(
        [sys.executable, *ONE_ROUND, "cpuattn", "demo", "--prompt", "The Queen said",
         "--tokens", "12", "--output", str(picture)],
        capture_output=True, encoding="utf-8", check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    model, tokenizer = glassllm.load_pretrained("en")
    ids = tokenizer.encode("The Queen said")
    written = [step.token for step in model.generate(ids, 12, greedy=True)]
    assert f"\n{tokenizer.decode(ids + written)}\n" in result.stdout
    assert "check: the same 12 tokens" in result.stdout
    assert result.stdout.count("tokens/s") == 2
    pixels = imread(picture)
    assert min(pixels.shape[:2]) > 1000
    assert pixels.std() > 0.1


@pytest.mark.parametrize("lang", ["en", "pt"])
def test_greedy_tokens_fill_the_context_alike(lang: str) -> None:
    transformer, model, tokenizer = model_on_cpuattn.load(lang)
    ids = tokenizer.encode(PROMPTS[lang])
    count = model.cfg.max_len - len(ids)
    found = list(generate.greedy(transformer, ids, count))
    expected = list(model.generate(ids, count, greedy=True))
    assert [token for token, _ in found] == [step.token for step in expected]
    np.testing.assert_allclose(
        [probabilities for _, probabilities in found], [step.probs for step in expected], atol=1e-5
    )


def test_the_package_runs_no_forward_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer, model, tokenizer = model_on_cpuattn.load("en")

    def forbidden(*_args: object, **_options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(type(model), "forward", forbidden)
    assert len(list(generate.greedy(transformer, tokenizer.encode("Alice"), 3))) == 3


def test_attention_weights_are_those_of_the_package() -> None:
    transformer, model, tokenizer = model_on_cpuattn.load("en")
    ids = tokenizer.encode("“Curiouser and curiouser!” cried Alice")
    tracer = glassllm.Tracer()
    model.forward(ids, trace=tracer)
    weights = generate.attention_weights(transformer, ids)
    assert len(weights) == model.cfg.n_layers
    for layer, per_head in enumerate(weights):
        for head, matrix in enumerate(per_head):
            expected = tracer.get("attn.softmax", layer=layer, head=head).value
            np.testing.assert_allclose(matrix, expected, atol=1e-5)


@pytest.fixture
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the timings out, which take most of the time."""
    monkeypatch.setattr(speed, "print_generation", lambda *_: None)
    monkeypatch.setattr(speed, "print_attention", lambda *_: None)


@pytest.mark.usefixtures("no_timing")
def test_other_tokens_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = glassllm.GlassLM.generate

    def another_second_token(self: Any, *args: Any, **options: Any) -> Any:
        for index, step in enumerate(original(self, *args, **options)):
            token = step.token + (index == 1)
            yield glassllm.GenStep(token, step.probs, step.trace)

    monkeypatch.setattr(glassllm.GlassLM, "generate", another_second_token)
    assert cli.main(["demo", "--tokens", "3"]) == 1
    assert "check FAILED: token 2 is" in capsys.readouterr().out


@pytest.mark.usefixtures("no_timing")
def test_unknown_characters_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--prompt", "Alice 猫", "--tokens", "1"]) == 0
    assert "does not know" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "Alice", "--tokens", "128"], "use --tokens 127 or less"),
        (["--prompt", "Alice" + " Alice" * 199], "--prompt has 200 tokens"),
        (["--output", "a.docx"], "a.docx must end in one of"),
    ],
)
def test_expected_problems_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("tokens", ["0", "-1", "many"])
def test_token_count_must_be_positive(tokens: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", f"--tokens={tokens}"])
    assert stop.value.code == 2
    assert tokens in capsys.readouterr().err
