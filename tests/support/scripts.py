"""Run Python in a process of its own, which may hang, be killed or be measured."""

import os
import subprocess
import sys

# Before the module or script that shall run: the demo's timings are one round of single calls, not
# five of 0.2 s each.
_ONE_ROUND = """
import functools, runpy, sys
from cpuattn.demo import speed
speed.TURN_SECONDS = 0
speed.interleaved_medians = functools.partial(speed.interleaved_medians, rounds=1)
del sys.argv[0]
run = runpy.run_path if sys.argv[0].endswith(".py") else functools.partial(
    runpy.run_module, alter_sys=True)
run(sys.argv[0], run_name="__main__")
"""
ONE_ROUND = ("-c", _ONE_ROUND)


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
