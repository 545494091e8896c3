"""docs/benchmarks.md: every cell, the averages, the losses, and who did not run what."""

import statistics
from collections.abc import Sequence

from tables import faster_peers, machine, ratios, rounds, table

from cpuattn.bench.engines import ENGINES
from cpuattn.bench.results import US, CellRecord, Record, count_threads, geometric_mean, rows
from cpuattn.bench.table import digits, duration, mebibytes, peak_line

NOTES = """\
- The shape is batch × heads × length × head_dim, with two counts of heads where query heads share
  key/value heads, two lengths where there are not as many queries as keys, and two head_dims where
  values are not as wide as keys.
- Time is the median of one call over interleaved rounds, ± half the distance between the
  quartiles of the rounds. Results go into buffers made beforehand where an engine has that.
- × cpuattn is how many times as long as cpuattn an engine takes.
- The limit is the rate of multiply-adds and nothing else that the same instruction set reaches on
  as many threads in the same rounds; in decode, where each call reads other keys and values from
  memory, it is the rate of reads and nothing else. Elements of 16 bits and int8 are multiplied in
  float32, so their limit is the one of float32; of their reads it is the bytes that are stored, the
  scales of int8 included. Work is what the call needs: a pair of a
  query and a key that a mask hides counts for nobody.
- Error is the relative L2 distance to the result in float64.
- MiB is what one call adds to its process at the peak, its result included."""


def text(record: Record) -> str:
    """Make the page."""
    cells = record["cells"]
    software = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    origin = (
        f"Measured on {record['date']} on {machine(record)} with {software}, in {rounds(cells)} "
        "rounds. The [README of the benchmark](../benchmarks/README.md) says how, and how to "
        "repeat it. Times move from machine to machine: compare ratios."
    )
    quiet = f"{peak_line(cells)}; load before the run {record['settings']['load_before']}"
    parts = [
        "# Benchmarks",
        "<!-- Made by benchmarks/report.py from benchmarks/results.json: do not edit. -->",
        origin,
        *(f"![{words}](pictures/benchmark-{name}.svg)" for name, words in PICTURES.items()),
        NOTES,
        f"How quiet the machine was: {quiet}.",
        "## Averages",
        "How many times faster cpuattn is, as geometric means:",
        "\n".join(_averages(cells)),
        "## Where cpuattn is not the fastest",
        _losses(cells),
        "## Who did not run what",
        _left_out(cells),
    ]
    for isa, threads in dict.fromkeys((cell["isa"], cell["threads"]) for cell in cells):
        group = [c for c in cells if (c["isa"], c["threads"]) == (isa, threads)]
        parts.append(f"## {isa}, {count_threads(threads)} ({_limits(group)})")
        parts.append("\n".join(_table(group)))
    return "\n\n".join(parts) + "\n"


PICTURES = {
    "time": "Time over length",
    "share": "Share of the limit",
    "memory": "Memory over length",
}


def _averages(cells: Sequence[CellRecord]) -> list[str]:
    lines = []
    for isa, threads in dict.fromkeys((cell["isa"], cell["threads"]) for cell in cells):
        of_both = [c for c in cells if (c["isa"], c["threads"]) == (isa, threads)]
        for limit in ("multiply-adds", "reads"):
            group = [cell for cell in of_both if cell["limit"] == limit]
            if group:
                lines.append([isa, count_threads(threads), limit, *_average(group)])
        lines.append([isa, count_threads(threads), "all", *_average(of_both)])
    header = ["instruction set", "threads", "limit", "cells", "fastest in"]
    return table([*header, "× best peer", "× torch"], lines, left=3)


def _average(cells: Sequence[CellRecord]) -> list[str]:
    means = [
        digits(geometric_mean(found)) if found else "-"
        for found in (ratios(cells), ratios(cells, "torch"))
    ]
    return [str(len(cells)), str(len(cells) - len(faster_peers(cells))), *means]


def _losses(cells: Sequence[CellRecord]) -> str:
    lines = [
        f"- {cell['case']}, {cell['isa']}, {count_threads(cell['threads'])}: {peer.engine} takes "
        f"{digits(peer.ratio)} times the time of cpuattn."
        for cell, peer in faster_peers(cells)
    ]
    return "\n".join(lines) or "Nowhere in this run."


def _left_out(cells: Sequence[CellRecord]) -> str:
    """Write a line for each engine and reason, with the cases, or with those that remain."""
    cases = list(dict.fromkeys(cell["case"] for cell in cells))
    lines = []
    for name in ENGINES:
        reasons: dict[str, set[str]] = {}
        for cell in cells:
            if name in cell["left_out"]:
                reasons.setdefault(cell["left_out"][name], set()).add(cell["case"])
        for reason, out in reasons.items():
            rest = [case for case in cases if case not in out]
            if not rest:
                where = "every case"
            elif len(rest) < len(out):
                where = f"all but {', '.join(rest)}"
            else:
                where = ", ".join(case for case in cases if case in out)
            lines.append(f"- {name}, {reason}: {where}.")
    return "\n".join(lines) or "Every engine ran every case."


def _limits(cells: Sequence[CellRecord]) -> str:
    peak = statistics.median(value for cell in cells for value in cell["peak_gflops"])
    reads = statistics.median(value for cell in cells for value in cell["read_gbytes"])
    return f"{peak:.0f} GFLOP/s, {reads:.0f} GB/s"


def _table(cells: Sequence[CellRecord]) -> list[str]:
    header = ["case", "shape", "engine", "time", "±", f"× {US}", "GFLOP/s", "% of limit"]
    lines = []
    for cell in cells:
        for n, row in enumerate(rows(cell)):
            line = [cell["case"], cell["title"]] if n == 0 else ["", ""]
            line += [f"**{row.engine}**" if row.is_us else row.engine]
            line += [duration(row.seconds), f"{row.spread:.1%}", digits(row.ratio)]
            line += [digits(row.gflops), f"{row.share * 100:.1f}", f"{row.error:.1e}"]
            lines.append([*line, mebibytes(row.extra_bytes)])
    return table([*header, "error", "MiB"], lines, left=3)
