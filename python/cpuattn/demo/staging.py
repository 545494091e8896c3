"""Private folders for downloads, of which a killed process leaves none for ever.

Each has a lock that the system releases when the last process that holds it ends, however it ends.
The next download removes the folders that nobody holds.
"""

import contextlib
import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX = "fetch-"
LOCK = "lock"
UNLOCKED_SECONDS = 600  # by far longer than it takes to make a lock


def make_private(folder: Path) -> None:
    """Make a folder and its parents where they are missing, for this user alone.

    The mode does not depend on the caller's umask; folders that are there keep theirs.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)
    if not missing and not folder.is_dir():
        folder.mkdir()  # raises what is wrong with it


@contextlib.contextmanager
def staging_folder(parent: Path) -> Iterator[tuple[Path, IO[str]]]:
    """Make a folder that is removed afterwards.

    Parameters
    ----------
    parent : Path
        Where to make it.

    Yields
    ------
    tuple of Path and file
        The folder and its lock; a child that inherits the lock's descriptor holds it too.
    """
    while True:
        with tempfile.TemporaryDirectory(
            dir=parent, prefix=PREFIX, ignore_cleanup_errors=True
        ) as name:
            path = Path(name) / LOCK
            with path.open("x") as lock:
                # Another process may have seen the folder before it was locked, and removed it.
                if _try_lock(lock) and path.exists():
                    yield Path(name), lock
                    return


def remove_dead(parent: Path) -> None:
    """Remove the folders whose processes have ended, as far as this user may.

    Parameters
    ----------
    parent : Path
        Where `staging_folder` made them.
    """
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_if_dead(folder)


def _remove_if_dead(folder: Path) -> None:
    try:
        with (folder / LOCK).open("r+") as lock:
            if _try_lock(lock):
                shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:  # killed before there was a lock, or just begun
        if time.time() - folder.stat().st_mtime > UNLOCKED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _try_lock(lock: IO[str]) -> bool:
    """Tell whether the lock is now ours."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
