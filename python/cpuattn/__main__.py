"""The command line: ``python -m cpuattn info | demo | bench | selftest``."""

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import cpuattn
from cpuattn import _core
from cpuattn._programs import missing_extra
from cpuattn.demo.errors import DemoError

# A command is main(argv) of its module, which is imported only when it is called: `info` needs
# neither matplotlib nor a model.
COMMANDS = {
    "demo": "cpuattn.demo",
    "bench": "cpuattn.bench",
    "selftest": "cpuattn.selftest",
}
EPILOG = """\
commands (each has its own --help):
  info      versions, instruction sets and threads
  demo      a trained language model that writes text; `demo chat` talks with you,
            `demo long` reads a long text, `demo minilm` searches your text files
  bench     speed, error and memory beside NumPy, pure Python and installed peers
  selftest  every instruction set of this CPU against a float64 reference
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after the program's name; default ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit status: 0 success, 1 a check failed, 2 the request cannot be met, 130 interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cpuattn",
        description="Exact blocked softmax attention for CPUs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cpuattn {cpuattn.__version__}")
    parser.add_argument("command", nargs="?", choices=["info", *COMMANDS], help="what to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the command's own arguments")
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        if not {"-h", "--help"} & set(args.arguments):
            _check_environment()
        return _run(args.command, args.arguments)
    except DemoError as error:
        complaint = str(error)
    except ModuleNotFoundError as error:
        if args.command != "bench" or str(error.name).startswith("cpuattn"):
            raise
        complaint = missing_extra(str(error.name), "bench")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    _complain(complaint)
    return 2


def _check_environment() -> None:
    """Let a variable that every call would complain of be complained of once, in a line."""
    try:
        _core.config()
    except ValueError as error:
        raise DemoError(str(error)) from error


def _run(command: str, arguments: Sequence[str]) -> int:
    if command == "info":
        return _info(arguments)
    return int(importlib.import_module(COMMANDS[command]).main(arguments) or 0)


def _info(argv: Sequence[str]) -> int:
    argparse.ArgumentParser(
        prog="python -m cpuattn info",
        description="Print versions, instruction sets and threads, for bug reports.",
    ).parse_args(argv)
    cpuattn.show_config()
    return 0


def program() -> int:
    """Run the command of ``sys.argv`` on streams of any state; return the exit status."""
    _prepare_streams()
    failures = _watch(sys.stdout)
    try:
        status = main()
        sys.stdout.flush()
    except SystemExit as stop:  # argparse, which says nothing if it cannot write
        status = stop.code if isinstance(stop.code, int) else 1
        with contextlib.suppress(OSError):
            sys.stdout.flush()
    except OSError as error:
        if not failures:
            reason = error.strerror or str(error)
            _complain(f"{os.fsdecode(error.filename)}: {reason}" if error.filename else reason)
            status = 2
    if not failures:
        return status
    # What is still to be written goes nowhere: the interpreter flushes when it ends.
    _discard(sys.stdout)
    if isinstance(failures[0], BrokenPipeError):
        return 1  # `python -m cpuattn selftest | head -1`: nobody reads the rest
    _complain(f"cannot write the output: {failures[0].strerror}")
    return 2


def _prepare_streams() -> None:
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # Python has none for a descriptor that was closed, as by `>&-`. The lowest free descriptor
        # is the closed one, so that no file opened later receives what libraries print there.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 (open to the end)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets "?", not a UnicodeEncodeError.
            stream.reconfigure(errors="replace")


def _watch(stream: TextIO) -> list[OSError]:
    """Return a list to which everything is added that fails in writing to a stream."""
    failures: list[OSError] = []

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            try:
                return method(*args)
            except OSError as error:
                failures.append(error)
                raise

        return call

    for name in ("write", "flush"):
        setattr(stream, name, watched(getattr(stream, name)))
    return failures


def _complain(text: str) -> None:
    try:
        print(f"error: {text}", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(program())
