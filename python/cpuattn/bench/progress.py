"""The progress bar of a run."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(steps: int) -> Iterator[Callable[[str], None]]:
    """Show progress on standard error.

    Parameters
    ----------
    steps : int
        How often the function that this yields will be called, with the name of what is running.
    """
    if sys.stderr.isatty() and importlib.util.find_spec("rich"):
        yield from _rich_bar(steps)
    else:
        yield _Lines(steps)


def _rich_bar(steps: int) -> Iterator[Callable[[str], None]]:
    parts = importlib.import_module("rich.progress")
    console = importlib.import_module("rich.console").Console(stderr=True)
    columns = (
        parts.BarColumn(),
        parts.TaskProgressColumn(),
        parts.TimeRemainingColumn(),
        parts.TextColumn("{task.description}"),
    )
    # It is drawn between the turns only: a thread that draws it would take time from the engines.
    with parts.Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("starting", total=steps)

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=name, refresh=True)

        yield advance


class _Lines:
    """One line for each cell, for logs and for terminals without rich."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._name = ""

    def __call__(self, name: str) -> None:
        self._done += 1
        if name != self._name:
            self._name = name
            print(f"[{self._done / self._steps:4.0%}] {name}", file=sys.stderr, flush=True)
