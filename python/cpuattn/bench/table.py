"""A run as a table on the terminal, and how numbers are written in all tables."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence

from cpuattn.bench.dtypes import multiplied
from cpuattn.bench.results import US, CellRecord, Record, Row, count_threads, rows

MIB = 2**20
LEGEND = """\
time: median of one call, ± half the distance between the quartiles of the rounds.
× cpuattn: how many times as long as cpuattn takes. % limit: of the multiply-adds that the
instruction set can do (pairs that a mask hides are not counted as work), or, in decode, of
the reads from memory; both measured in the same rounds. error: relative L2 distance to
the float64 result. MiB: what a call adds to its process at the peak, the result included."""

# A line of the table and what it is: its style in a terminal.
Line = tuple[str, str]
HEADER, CASE, OTHER, OURS = "bold", "cyan", "", "bold green"


def duration(seconds: float) -> str:
    """Write a duration with three digits and its unit: ``12.3 ms``."""
    unit, factor = ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{digits(seconds * factor)} {unit}"


def digits(number: float) -> str:
    """Write a number with three digits, or all those before its point: 0.0123, 1.23, 1234."""
    return f"{number:#.3g}".rstrip(".") if number < 999.5 else f"{number:.0f}"


def mebibytes(extra_bytes: int | None) -> str:
    """Write an amount of memory in MiB, to a tenth."""
    return "-" if extra_bytes is None else f"{extra_bytes / MIB:.1f}"


def show(record: Record) -> None:
    """Print the table of a run, in colors where rich is installed and a terminal shows them."""
    text = None
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        text = importlib.import_module("rich.text").Text
        console = importlib.import_module("rich.console").Console(soft_wrap=True)
    for line, style in lines(record):
        if text is None:
            print(line)
        else:
            console.print(text(line, style=style))
    print(LEGEND)
    print(peak_line(record["cells"]))


def lines(record: Record) -> list[Line]:
    """Write the table of a run in columns: a line for each case, below it one for each engine."""
    header = ["", "time", "±", "× cpuattn", "GFLOP/s", "% limit", "error", "MiB"]
    by_cell = [[_fields(row) for row in rows(cell)] for cell in record["cells"]]
    all_fields = [header, *(fields for cell in by_cell for fields in cell)]
    widths = [max(map(len, column)) for column in zip(*all_fields, strict=True)]
    found = [(_in_columns(header, widths), HEADER)]
    for cell, engines in zip(record["cells"], by_cell, strict=True):
        title = f"{cell['case']} ({cell['title']}), {cell['isa']}, {count_threads(cell['threads'])}"
        found.append((title, CASE))
        found += [(_in_columns(x, widths), OURS if x[0].strip() == US else OTHER) for x in engines]
    return found


def _in_columns(fields: Sequence[str], widths: Sequence[int]) -> str:
    # The name to the left, numbers to the right.
    numbers = [text.rjust(width) for text, width in zip(fields[1:], widths[1:], strict=True)]
    return "  ".join([fields[0].ljust(widths[0]), *numbers]).rstrip()


def _fields(row: Row) -> list[str]:
    return [
        f"  {row.engine}",
        duration(row.seconds),
        f"{row.spread:.0%}",
        digits(row.ratio),
        digits(row.gflops),
        f"{row.share:.1%}",
        f"{row.error:.1e}",
        mebibytes(row.extra_bytes),
    ]


def peak_line(cells: Sequence[CellRecord]) -> str:
    """Say what the limits were, and how much they moved: that much the machine was not quiet."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        threads = count_threads(cell["threads"])
        peak = f"{cell['isa']} {multiplied(cell['dtype'], cell['isa'])} {threads}, GFLOP/s"
        found.setdefault(peak, []).extend(cell["peak_gflops"])
        found.setdefault(f"reads {threads}, GB/s", []).extend(cell["read_gbytes"])
    parts = [f"{name} {min(each):.0f} to {max(each):.0f}" for name, each in found.items()]
    repeated = sum(cell["repeated_rounds"] for cell in cells)
    total = repeated + sum(len(cell["peak_gflops"]) for cell in cells)
    return (
        f"limits, lowest to highest round: {'; '.join(parts)}; {repeated} of {total} rounds were "
        "noisy and measured again"
    )
