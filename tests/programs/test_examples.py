"""Every script in examples/ runs and checks itself; what needs a download is in a second file."""

import re
import sys
from pathlib import Path

import pytest

from scripts import ONE_ROUND, run_python, start_python

EXAMPLES = Path(__file__).parents[2] / "examples"
LAST_CHECK = {
    "attention_from_scratch.py": "the same numbers in all three",
    "cross_attention.py": "the same in 8 steps",
    "memory_mapped_attention.py": "one call over everything agrees within",
}
TESTED_WITH_THEIR_MODELS = {"dinov2_features.py", "whisper_speech_to_text.py"}


def run(name: str, *arguments: str) -> str:
    return run_python("-W", "error", str(EXAMPLES / name), *arguments, seconds=100)


def test_every_example_is_run() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == LAST_CHECK.keys() | TESTED_WITH_THEIR_MODELS


@pytest.mark.parametrize("name", LAST_CHECK)
def test_example(name: str) -> None:
    printed = run_python("-W", "error", *ONE_ROUND, str(EXAMPLES / name), seconds=100)
    assert LAST_CHECK[name] in printed


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("piece", [100, 1000])
def test_mapped_file_is_never_in_memory_at_once(piece: int) -> None:
    printed = run("memory_mapped_attention.py", "--mib", "64", "--piece", str(piece))
    ours, grown = re.findall(r"^peak memory: (\d+) MiB, (\d+) MiB", printed, re.MULTILINE)[0]
    (whole,) = re.findall(r"whole file: (\d+) MiB", printed)
    # A token has 8 KiB; beside the piece there are the threads and their scratch.
    assert int(grown) <= piece / 128 + 8
    assert int(whole) > int(ours) + 48


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mib", "0"], "argument --mib: must be a whole number from 1, got '0'"),
        (["--piece", "few"], "argument --piece: must be a whole number from 1, got 'few'"),
        (["--folder", "no/such"], "argument --folder: must be a folder, got 'no/such'"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    process = start_python(str(EXAMPLES / "memory_mapped_attention.py"), *arguments)
    assert process.returncode == 2
    assert process.stderr.endswith(f"error: {message}\n")
    assert process.stdout == ""
