"""The command line in bad surroundings: streams, folders, environment, words that are not text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpuattn import __main__ as cli
from cpuattn.demo import fetch
from cpuattn.demo.errors import DemoError
from scripts import ONE_ROUND

EXTRA = 'needs pip install ".[demo,bench]"'
INLINE = "module://matplotlib_inline.backend_inline"  # what a notebook leaves to its children
BENCH = ["bench", "--quick", "--cases=tiny-1", "--rounds=1", "--threads=1"]


def run(
    *arguments: str | bytes,
    redirect: str = "",
    cwd: Path | None = None,
    flags: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    program: tuple[str, ...] = ("-m", "cpuattn"),
) -> subprocess.CompletedProcess[str]:
    """Run the command line behind a shell that redirects its streams."""
    command = [os.fsencode(word) for word in (sys.executable, *flags, *program, *arguments)]
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirect}', "bash", *command],
        capture_output=True,
        check=False,
        cwd=cwd,
        encoding="utf-8",
        errors="replace",
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        timeout=110,
    )


@pytest.mark.parametrize(
    "arguments", [["info"], ["--help"], ["info", "--help"], ["demo", "--help"], ["--version"]]
)
def test_a_full_disk_behind_the_output_is_one_line(arguments: list[str]) -> None:
    result = run(*arguments, redirect=">/dev/full")
    assert result.returncode == 2
    assert result.stderr == "error: cannot write the output: No space left on device\n"


def test_a_full_disk_behind_the_errors_too() -> None:
    result = run("info", redirect=">/dev/full 2>/dev/full")
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "")
    assert run("nonsense", redirect="2>/dev/full").returncode == 2


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize("arguments", [["info"], ["--help"]])
def test_closed_streams(redirect: str, arguments: list[str]) -> None:
    result = run(*arguments, redirect=redirect)
    assert (result.returncode, result.stderr) == (0, "")
    assert (result.stdout == "") == (">&- " in f"{redirect} ".replace("2>&- ", ""))


@pytest.mark.parametrize("arguments", [["info"], ["--help"], ["bench", "--help"]])
def test_reader_that_is_gone(arguments: list[str]) -> None:
    result = run(*arguments, redirect="| true; exit ${PIPESTATUS[0]}")
    assert result.stderr == ""
    assert result.returncode in (0, 1)  # the output may have fitted into the pipe in time


def test_errors_do_not_go_to_the_output_when_theirs_is_closed() -> None:
    result = run("nonsense", redirect="2>&-")
    assert (result.returncode, result.stdout) == (2, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--prompt", b"caf\xe9"],
        ["demo", "chat", b"caf\xe9"],
        ["demo", "chat", "hello", "--system", b"\xff"],
        ["demo", "long", "--question", b"caf\xe9"],
        ["demo", "minilm", "--text", "a", "--query", b"caf\xe9"],
    ],
)
def test_words_that_are_no_text(arguments: list[str | bytes]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "must be UTF-8 text" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [[b"\xff"], ["bench", b"--cases=\xff"], ["bench", b"--json=\xff/a"], ["info", b"\xff"]],
)
def test_other_words_are_complained_of_whatever_they_are(arguments: list[str | bytes]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["demo chat", "demo long", "demo minilm", "demo", "bench"])
def test_any_cache_folder_can_be_explained(command: str, tmp_path: Path) -> None:
    result = run(
        *command.split(), "--help", environment={"XDG_CACHE_HOME": str(tmp_path / "100%(s)d%")}
    )
    assert result.returncode == 0, result.stderr


def test_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nobody")
    for relative in ("", "relative"):  # to be ignored, says the specification
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert fetch.default_cache() == Path("/nobody/.cache/cpuattn")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert fetch.default_cache() == Path("/some/where/cpuattn")


def test_without_a_home_the_cache_can_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(DemoError, match="no home directory: choose a folder by --cache"):
        fetch.default_cache()
    for command in ("chat", "minilm", "long"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["demo", command, "--help"])
        assert stop.value.code == 0
    assert "--cache" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["demo", "--output", "/proc/a.png"], "--output"),
        (["demo", "--output", "/"], "--output"),
        ([*BENCH, "--json", "/proc/a.json"], "--json"),
        ([*BENCH, "--plot", "/proc/a.png"], "--plot"),
        ([*BENCH, "--json", "no/such/folder.json"], "--json"),
    ],
)
def test_what_cannot_be_written_is_said_first(arguments: list[str], option: str) -> None:
    """Not even root can make a file in /proc."""
    result = run(*arguments)
    assert result.returncode == 2
    assert f"error: argument {option}: cannot write {arguments[-1]}: " in result.stderr
    assert result.stdout == ""


def test_files_are_only_tried(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("kept")
    assert cli.main(["info"]) == 0
    from cpuattn._programs import output_file

    assert output_file(str(there)) == there
    assert there.read_text() == "kept"
    output_file(str(tmp_path / "new.json"))
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "target.json")
    output_file(str(link))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "there.json"]


def test_backend_of_a_notebook(tmp_path: Path) -> None:
    for package in ("glassllm", "matplotlib", "ml_dtypes", "threadpoolctl"):
        pytest.importorskip(package, reason=EXTRA)
    for number, arguments in enumerate((["demo", "--tokens=2", "--output"], [*BENCH, "--plot"])):
        picture = tmp_path / f"{number}.png"
        result = run(
            *arguments,
            str(picture),
            environment={"MPLBACKEND": INLINE},
            program=(*ONE_ROUND, "cpuattn"),
        )
        assert result.returncode == 0, result.stderr
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_nothing_is_written_unasked(tmp_path: Path) -> None:
    for package in ("glassllm", "ml_dtypes", "threadpoolctl"):
        pytest.importorskip(package, reason=EXTRA)
    for arguments in (["demo", "--tokens=2"], BENCH):
        result = run(*arguments, cwd=tmp_path, program=(*ONE_ROUND, "cpuattn"))
        assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["-P", "-I"])
@pytest.mark.parametrize("arguments", [["selftest"], BENCH])
def test_children_import_what_the_parent_does(
    flag: str, arguments: list[str], tmp_path: Path
) -> None:
    """A numpy.py in the current folder is not run where Python was told not to."""
    if arguments == BENCH:
        pytest.importorskip("threadpoolctl", reason=EXTRA)
    for module in ("numpy", "json", "subprocess"):
        (tmp_path / f"{module}.py").write_text("open('executed', 'w').close(); raise SystemExit(9)")
    result = run(*arguments, cwd=tmp_path, flags=(flag,))
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "executed").exists()


def test_bench_needs_a_file_to_merge_with(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*BENCH, "--merge=all"])
    assert stop.value.code == 2
    assert "--merge needs --json" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["CPUATTN_ISA", "CPUATTN_NUM_THREADS"])
@pytest.mark.parametrize("arguments", [["info"], ["selftest"], ["demo"], ["bench", "--quick"]])
def test_variables_that_mean_nothing_are_one_line(variable: str, arguments: list[str]) -> None:
    result = run(*arguments, environment={variable: "nonsense"})
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {variable}='nonsense' is not ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["info", "bench"])
def test_help_does_not_mind_such_variables(command: str) -> None:
    nonsense = {"CPUATTN_ISA": "nonsense", "CPUATTN_NUM_THREADS": "nonsense"}
    result = run(command, "--help", environment=nonsense)
    assert (result.returncode, result.stderr) == (0, "")
