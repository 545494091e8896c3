"""The command line: ``python -m cpuattn info | demo | bench | selftest``."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

import cpuattn
from cpuattn.demo.errors import DemoError

# A command is main(argv) of its module, which is imported only when it is asked for: `info` needs
# neither matplotlib nor a model.
COMMANDS = {
    "demo": "cpuattn.demo",
    "bench": "cpuattn.bench",
    "selftest": "cpuattn.selftest",
}
EPILOG = """\
commands (each but info has its own --help):
  info      versions, instruction sets and threads
  demo      a trained language model that writes text; `demo chat "…"` answers you,
            `demo minilm` searches your text files
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
    if args.command == "info":
        if args.arguments:
            parser.error(f"info takes no arguments, got {' '.join(args.arguments)}")
        cpuattn.show_config()
        return 0
    return _run(args.command, args.arguments)


def _run(command: str, arguments: Sequence[str]) -> int:
    """Run a command's module and turn expected problems into one line and an exit status."""
    try:
        status = importlib.import_module(COMMANDS[command]).main(arguments)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if command != "bench" or str(error.name).startswith("cpuattn"):
            raise
        print(f'error: {error.name} is missing: pip install "cpuattn[bench]"', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return int(status or 0)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets "?", not a UnicodeEncodeError.
            stream.reconfigure(errors="replace")
    try:
        exit_status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # `python -m cpuattn selftest | head -1`: nobody reads the rest, so it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_status = 1
    sys.exit(exit_status)
