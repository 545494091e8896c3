"""Wrong calls, whose messages errors.txt has: every argument wrong in dtype, rank, shape, value."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from oracle import Array

Arguments = dict[str, Any]
Wrong = dict[str, list[Any]]
Calls: TypeAlias = Iterator[tuple[str, Callable[[], Any]]]


def ones(*shape: int, dtype: Any = np.float32) -> Array:
    """Give ones, whose values no message names."""
    return np.ones(shape, dtype)


def integers(*shape: int) -> Array:
    """Give ones of int64."""
    return ones(*shape, dtype=np.int64)


# B 2, Hq 6, Hkv 3, Lq 4, Lk 5, D 7, Dv 8.
GOOD: Arguments = {
    "query": ones(2, 6, 4, 7),
    "key": ones(2, 3, 5, 7),
    "value": ones(2, 3, 5, 8),
}


def each(wrong: Wrong) -> Iterator[Arguments]:
    """Give one wrong argument after the other."""
    for name, values in wrong.items():
        for value in values:
            yield {name: value}


def calls(function: Callable[..., Any], good: Arguments, bad: list[Arguments]) -> Calls:
    """Give each call with what is wrong, and the name of its line in errors.txt."""
    for arguments in bad:
        name = getattr(function, "__qualname__", type(function).__name__)
        label = f"{name} {text(arguments)}"
        yield label, functools.partial(function, **(good | arguments))


def text(value: Any) -> str:
    """Write arguments in one line, arrays by dtype and shape."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={text(v)}" for name, v in value.items()) or "nothing else"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(text, value))})"
    if isinstance(value, np.ndarray):
        kind = "masked " if isinstance(value, np.ma.MaskedArray) else ""
        return f"{kind}{value.dtype.str}{value.shape}"
    return repr(value)


def messages(wrong: Calls) -> Iterator[str]:
    """Make every wrong call, and write what it raises in a line."""
    for label, call in wrong:
        try:
            call()
        except Exception as error:  # noqa: BLE001 (its kind is what is tested)
            message = str(error).replace("\n", "\\n")
            yield f"{label} | {type(error).__name__}: {message}"
        else:
            yield f"{label} | no error"
