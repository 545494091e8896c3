"""An allocation that fails leaves a cache as before a call, or as after it, with a MemoryError."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cache_steps import STEPS

SUPPORT = Path(__file__).parents[1] / "support"


def build(folder: Path) -> Path:
    """Build the failing allocator and the module that makes it fail; give the former."""
    compiler = os.environ.get("CC", "cc")
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("an allocator is put before that of glibc")
    headers = Path(sysconfig.get_path("include"))
    if shutil.which(compiler) is None or not (headers / "Python.h").exists():
        pytest.skip("needs a C compiler and the headers of Python")
    allocator = folder / "libfailing_malloc.so"
    module = folder / ("failing_call" + sysconfig.get_config_var("EXT_SUFFIX"))
    common = [compiler, "-shared", "-fPIC", "-O1"]
    subprocess.run([*common, "-o", allocator, SUPPORT / "failing_malloc.c"], check=True)
    subprocess.run(
        [*common, "-I", headers, "-o", module, SUPPORT / "failing_call.c", allocator], check=True
    )
    return allocator


def test_every_allocation_fails_once(tmp_path: Path) -> None:
    allocator = build(tmp_path)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(allocator),
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(SUPPORT),
        "OPENBLAS_NUM_THREADS": "1",
    }
    # NumPy, not the library, crashes where np.errstate has no memory: attend beside sinks uses it.
    names = [name for name in STEPS if name != "attend"]
    ran = subprocess.run(
        [sys.executable, SUPPORT / "failing_allocations.py", tmp_path, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    found = [line for line in ran.stdout.splitlines() if not line.startswith("done: ")]
    assert found == []
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("done: ") == len(names)
