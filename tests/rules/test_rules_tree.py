"""What lies in the repository: nothing generated, nothing of one machine."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def git(*arguments: str) -> list[str]:
    """List files by a git command; skip outside a checkout."""
    try:
        listing = subprocess.run(
            ["git", "-C", ROOT, *arguments, "-z"], check=True, capture_output=True, text=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [name for name in listing.stdout.split("\0") if name]


def texts() -> dict[str, str]:
    """Read every text file that is tracked or would be."""
    found = {}
    for name in git("ls-files", "--cached", "--others", "--exclude-standard"):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            found[name] = data.decode()
    return found


def test_nothing_generated_is_tracked() -> None:
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard") == []


def test_no_file_is_large() -> None:
    names = git("ls-files", "--cached", "--others", "--exclude-standard")
    large = {name for name in names if (ROOT / name).is_file() and size(name) > 1 << 20}
    assert large == set()


def size(name: str) -> int:
    """Give the bytes of a file."""
    return (ROOT / name).stat().st_size


def test_no_path_of_one_machine() -> None:
    folders = "home|root|tmp|work|Users|opt|mnt"
    pattern = re.compile(rf"(?<![\w.~}}/*-])/({folders})/[\w.-]+")
    found = {
        f"{name}: {match.group()}"
        for name, text in texts().items()
        for match in pattern.finditer(text)
    }
    assert found == set()


def test_text_files_are_clean() -> None:
    bad = [
        name
        for name, text in texts().items()
        if "\r" in text or re.search(r"[ \t]+$", text, re.MULTILINE) or text[-1:] not in ("", "\n")
    ]
    assert bad == []
