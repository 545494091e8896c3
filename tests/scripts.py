"""Run Python in a process of its own, which may hang, be killed or be measured."""

import os
import subprocess
import sys


def run_python(
    *arguments: str, environment: dict[str, str] | None = None, seconds: float = 60
) -> str:
    """Run this interpreter and return what it printed; fail if it fails or hangs."""
    process = start_python(*arguments, environment=environment, seconds=seconds)
    assert process.returncode == 0, process.stderr
    return process.stdout


def start_python(
    *arguments: str, environment: dict[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter, without the settings for threads of the one that asks."""
    mine = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=seconds,
        env=mine | (environment or {}),
    )
