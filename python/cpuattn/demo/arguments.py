"""Checked arguments on the demos' command lines."""

import argparse
import math
from pathlib import Path

from cpuattn._programs import utf8_text


def words(text: str) -> str:
    """Return a text that is not blank, or raise argparse.ArgumentTypeError."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return utf8_text(text)


def regular_file(text: str) -> Path:
    """Return the path of a file, or raise argparse.ArgumentTypeError."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: not a regular file")
    return path


def positive_int(text: str) -> int:
    """Return a whole number from 1, or raise argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def natural_int(text: str) -> int:
    """Return a whole number from 0, or raise argparse.ArgumentTypeError."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, got {text!r}")
    return int(text)


def temperature(text: str) -> float:
    """Return a finite number from 0, or raise argparse.ArgumentTypeError."""
    number = _float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0, got {text!r}")
    return number


def share(text: str) -> float:
    """Return a number above 0 and up to 1, or raise argparse.ArgumentTypeError."""
    number = _float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text!r}")
    return number


def _float(text: str) -> float:
    """Return the number, or NaN, which is in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan
