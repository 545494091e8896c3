"""`python -m cpuattn demo long` with a small random model: nothing is downloaded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cpuattn
from cpuattn import __main__ as cli

for package in ("gguf", "jinja2", "rich", "tokenizers"):
    pytest.importorskip(package, reason='needs pip install ".[demo]"')

from cpuattn.demo import comparison, long  # noqa: E402
from cpuattn.demo.decoder import Array, attend  # noqa: E402
from small_smollm2 import CONTEXT, LAYERS, write_gguf  # noqa: E402


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command with a small model and a short answer."""
    write_gguf(tmp_path / "small.gguf")
    (tmp_path / "text.txt").write_text("cat user " * 40)
    monkeypatch.setattr(long, "ANSWER_TOKENS", 6)
    monkeypatch.setattr(long, "COMPARED_LAYERS", 2)
    files = ["--model", str(tmp_path / "small.gguf"), "--text", str(tmp_path / "text.txt")]

    def run(*arguments: str) -> int:
        return cli.main(["demo", "long", "--question", "a", *files, *arguments])

    return run


def test_everyone_reads_and_writes(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("--tokens", "30") == 0
    printed = capsys.readouterr().out
    assert "reading " in printed
    assert "writing the answer" in printed
    for name in comparison.engines():
        assert printed.count(f"\n  {name} ") == 2
    assert "check passed" in printed


def test_other_results_fail(
    ask: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(cache: cpuattn.KVCache, query: Array) -> Array:
        return attend(cache, query) * np.float32(1.001)

    monkeypatch.setattr(comparison, "numpy_attention", other)
    assert ask("--tokens", "30") == 1
    assert "check FAILED" in capsys.readouterr().out


def test_text_must_fit(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask() == 2
    assert f"context holds {CONTEXT}: use a smaller --tokens" in capsys.readouterr().err


def test_default_text_is_long() -> None:
    assert len(long._pythons_help()) > 100_000


@pytest.mark.parametrize("queries", [1, 7])
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4), (3, 1)])
def test_everyone_computes_the_same(queries: int, heads: int, kv_heads: int) -> None:
    rng = np.random.default_rng(3)
    cache = cpuattn.KVCache(1, kv_heads, 8, dtype="float32")
    # torch is causal from the first key on: a text is read at once, then token by token.
    length = 20 if queries == 1 else queries
    cache.append(*rng.standard_normal((2, 1, kv_heads, length, 8), np.float32))
    query = rng.standard_normal((1, heads, queries, 8), np.float32)
    engines = comparison.engines()
    assert next(iter(engines)) == "cpuattn"
    assert list(engines)[-1] == "NumPy"
    expected = engines["cpuattn"](cache, query)
    for name, engine in engines.items():
        np.testing.assert_allclose(engine(cache, query), expected, atol=2e-6, err_msg=name)


def test_order_changes_from_layer_to_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def named(name: str) -> Any:
        def call(_cache: cpuattn.KVCache, query: Array) -> Array:
            order.append(name)
            return query

        return call

    names = ("cpuattn", "torch", "NumPy")
    monkeypatch.setattr(comparison, "engines", lambda: {name: named(name) for name in names})
    compare = comparison.Comparison(5, 3)
    cache: Any = SimpleNamespace()
    for _ in range(5):
        compare(cache, np.ones(3, np.float32))
    assert order == [
        *("cpuattn", "torch", "NumPy"),
        "cpuattn",
        *("torch", "NumPy", "cpuattn"),
        "cpuattn",
        *("NumPy", "cpuattn", "torch"),
    ]
    assert len(compare.seconds["NumPy"]) == 3
    assert compare.own_seconds > 0
    compare.restart()
    assert compare.seconds["NumPy"] == []


def test_small_model_has_fewer_layers_than_are_compared() -> None:
    assert comparison.Comparison(LAYERS, 5)._compared == {0, 1}
