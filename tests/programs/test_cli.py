"""The command line: help, info, selftest, and one line instead of a traceback."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpuattn
from cpuattn import __main__ as cli
from cpuattn import _core, selftest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cpuattn", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.returncode == 0
    for command in ("info", "demo", "bench", "selftest"):
        assert f"\n  {command} " in result.stdout


HELPS = ("info", "demo", "demo chat", "demo long", "demo minilm", "bench", "selftest")


@pytest.mark.parametrize("command", HELPS)
def test_command_has_its_own_help(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: python -m cpuattn {command}")


@pytest.mark.parametrize("command", HELPS)
def test_help_needs_no_extra(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in list(sys.modules):
        if module.startswith(("cpuattn.demo", "cpuattn.bench")) and module != "cpuattn.demo.errors":
            monkeypatch.delitem(sys.modules, module)
    for package in ("gguf", "glassllm", "jinja2", "matplotlib", "ml_dtypes", "rich", "safetensors",
                    "threadpoolctl", "tokenizers"):  # fmt: skip
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m cpuattn {command}")


def test_no_command_shows_the_help() -> None:
    result = run()
    assert result.returncode == 2
    assert "selftest" in result.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["info", "--verbose"], ["selftest", "x"]])
def test_wrong_arguments_are_named(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert arguments[-1] in result.stderr
    assert "Traceback" not in result.stderr


def test_info() -> None:
    result = run("info")
    assert result.returncode == 0, result.stderr
    for expected in (cpuattn.__version__, np.__version__, *cpuattn.isas()):
        assert expected in result.stdout


def test_selftest_tries_every_instruction_set() -> None:
    result = run("selftest")
    assert result.returncode == 0, result.stdout + result.stderr
    for isa in cpuattn.isas():
        assert isa in result.stdout
    calls = len(selftest.cases()) * len(cpuattn.isas()) * 2
    assert f"all {calls} correct" in result.stdout


@pytest.fixture
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the self-test do three of its calls."""
    some = selftest.cases()[:3]
    monkeypatch.setattr(selftest, "cases", lambda: some)


@pytest.mark.usefixtures("few_cases")
def test_selftest_leaves_the_instruction_set_as_it_was() -> None:
    before = _core.config()["isa"]
    assert selftest.main([]) == 0
    assert _core.config()["isa"] == before


@pytest.mark.usefixtures("few_cases")
def test_selftest_finds_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    correct = cpuattn.attention

    def slightly_wrong(*args: Any, **options: Any) -> Any:
        return correct(*args, **options) * np.float32(1.0001)

    monkeypatch.setattr(cpuattn, "attention", slightly_wrong)
    assert selftest.main([]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.usefixtures("few_cases")
def test_selftest_finds_dependence_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = cpuattn.attention

    def depends(*args: Any, **options: Any) -> Any:
        result = correct(*args, **options)
        return result if "num_threads" in options else np.nextafter(result, 9)

    monkeypatch.setattr(cpuattn, "attention", depends)
    assert selftest.main([]) == 1


def test_reader_that_leaves_early_gets_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "cpuattn", "selftest"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.wait(60) == 1


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("glassllm", ["demo"]),
        ("matplotlib", ["demo", "--output", "a.png"]),
        ("tokenizers", ["demo", "minilm", "--text", "a", "--query", "b"]),
        ("gguf", ["demo", "chat", "Hello"]),
        ("jinja2", ["demo", "chat", "Hello"]),
        ("tokenizers", ["demo", "long"]),
        ("ml_dtypes", ["demo", "chat", "Hello"]),
    ],
)
def test_missing_demo_extra(
    module: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert module in error
    assert 'pip install ".[demo]" in the source folder' in error


def test_missing_bench_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench_without_extra.py").write_text("import package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "bench", "bench_without_extra")
    assert cli.main(["bench"]) == 2
    assert 'package_that_is_not_there missing: run pip install ".[bench]"' in (
        capsys.readouterr().err
    )


def test_interrupt_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(selftest, "main", interrupted)
    assert cli.main(["selftest"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
