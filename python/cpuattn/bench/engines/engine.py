"""What the benchmark asks of an engine."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cpuattn.bench.case import Array, Case

Call = Callable[[], Any]


def _nothing() -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A case, ready to be timed: only the calls are."""

    calls: Sequence[Call]  # one for each set of the case's inputs
    # Turns what a call returned into the result, (B, Hq, Lq, Dv).
    read: Callable[[Any], Array] = np.asarray
    # Undoes what calls leave behind, before they are timed again.
    rewind: Callable[[], None] = _nothing


def _never(_case: Case) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class Engine:
    """Who computes it.

    Conversions, masks and settings belong into `prepare`: only the call itself is timed, in the
    form in which a user of that engine would write it, with inputs and results in buffers that are
    bound beforehand where the engine has that.
    """

    prepare: Callable[[Case, int], Prepared]  # on this many threads
    # Names the packages that do the work, and their versions.
    versions: Callable[[], dict[str, str]]
    # Says in a few words why the engine cannot take part in a case.
    refuses: Callable[[Case], str | None] = _never
    packages: tuple[str, ...] = ()  # that it needs
    narrows: bool = True  # can be held to AVX2


def no_such_cache(case: Case) -> str | None:
    """Say what a case's keys and values are that only cpuattn reads where they lie."""
    if case.page_size is not None:
        return "takes no pages"
    return "no int8 keys and values" if case.dtype == "int8" else None


def package_version(name: str, module: str) -> dict[str, str]:
    """Name a package and its version, shortened to what a release is called."""
    version = str(importlib.import_module(module).__version__)
    return {name: version.partition("-")[0]}
