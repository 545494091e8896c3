"""The scripts in examples/ run with NumPy only and check themselves."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LAST_CHECK = {
    "attention_from_scratch.py": "the same numbers in all three",
    "cross_attention.py": "the same in 8 steps",
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(LAST_CHECK)


@pytest.mark.parametrize("name", LAST_CHECK)
def test_example(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert LAST_CHECK[name] in result.stdout
