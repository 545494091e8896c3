"""What the programs share: files that they write, child interpreters, pictures, extras."""

import argparse
import errno
import importlib
import os
import sys
from pathlib import Path


def output_file(text: str) -> Path:
    """Return the path of a file that can be written, or raise argparse.ArgumentTypeError.

    What cannot be written is said before any work and not after it. A file that is there keeps its
    content; one that is not there is made and removed again.
    """
    path = Path(text)
    try:
        _try_to_write(Path(os.path.realpath(path)))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text}: {error.strerror}") from error
    return path


def _try_to_write(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        # To open a device or a pipe may already do something.
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    there = path.exists()
    with path.open("ab"):
        pass
    if not there:
        path.unlink()


def utf8_text(text: str) -> str:
    """Return a word of the command line, or raise argparse.ArgumentTypeError if it is not text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # Python keeps other bytes as lone surrogates, which no tokenizer takes.
        raise argparse.ArgumentTypeError("must be UTF-8 text") from error
    return text


def python_child(program: str) -> list[str]:
    """Return the command that runs a program text in an interpreter of its own.

    The child imports from where this process does: a module in the current folder cannot take the
    place of another one unless it already has here, whatever flags this interpreter was given.
    """
    flags = [
        flag
        for flag, given in (
            ("-I", sys.flags.isolated),
            ("-E", sys.flags.ignore_environment),
            ("-s", sys.flags.no_user_site),
        )
        if given
    ]
    return [sys.executable, *flags, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"]


def import_matplotlib() -> None:
    """Import matplotlib, whatever backend the environment names for windows.

    Pictures are files here. A notebook leaves ``MPLBACKEND`` to its child processes, where that
    backend may not be installed, and matplotlib refuses to be imported.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        importlib.import_module("matplotlib")
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def missing_extra(packages: str, extra: str) -> str:
    """Say which packages are missing, and how they are installed."""
    return f'{packages} missing: run pip install ".[{extra}]" in the source folder of cpuattn'
