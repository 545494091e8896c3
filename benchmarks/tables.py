"""A run as tables in Markdown: the short one of README.md and every cell in docs/benchmarks.md."""

import statistics
from collections.abc import Sequence

from cpuattn.bench.plot import headline_cells
from cpuattn.bench.results import US, CellRecord, Record, Row, count_threads, engine_names, rows
from cpuattn.bench.table import digits, duration, mebibytes, peak_line, rivals

# What README.md shows of the cases: each stands for a use.
USES = {
    "tiny-8": "a tiny call",
    "prefill-1024": "prefill",
    "prefill-2048": "prefill",
    "prefill-2048-d128": "prefill, wide heads",
    "causal-2048": "causal",
    "window-2048": "sliding window",
    "gqa-1024": "grouped heads",
    "bert-ragged": "ragged batch",
    "decode-4096": "decode, grouped heads",
}
NOTES = """\
- The shape is batch × heads × length × head_dim, with two numbers of heads where query heads share
  key/value heads, and two lengths where there are fewer queries than keys.
- Time is the median of one call over interleaved rounds, ± half the distance between the
  quartiles of the rounds. All engines make their result anew in each call.
- Peak is the rate of multiply-adds and nothing else that the same instruction set reaches on as
  many threads in the same rounds. Work is what the call asks for: a pair of a query and a key that
  a mask hides counts for nobody. Decode is bound by reading keys and values from memory, so that
  its share of the peak is small for everybody.
- Error is the relative L2 distance to the result in float64.
- MiB is what one call adds to its process at the peak, its result included."""


def readme(record: Record) -> str:
    """Make the table of README.md with its caption: the most threads, the usual cases.

    Raises
    ------
    ValueError
        If the run has none of these cases.
    """
    cells = [cell for cell in headline_cells(record) if cell["case"] in USES]
    if not cells:
        raise ValueError(f"the run has none of the cases that README.md shows: {', '.join(USES)}")
    over = rivals(record)
    shown = [*over, US]
    all_threads = sorted({cell["threads"] for cell in record["cells"]})
    header = ["use", "shape", *shown, *(f"× {name}" for name in over)]
    header.append(f"% of peak, {' / '.join(map(str, all_threads))} threads")
    header += [f"error {' / '.join(shown)}", f"MiB {' / '.join(shown)}"]
    lines = []
    for cell in cells:
        by_name = {row.engine: row for row in rows(cell)}
        us = by_name[US]
        line = [USES[cell["case"]], cell["title"].split(",")[0]]
        line += [duration(by_name[name].seconds) for name in shown]
        line[-1] = f"**{line[-1]}**"
        line += [f"{digits(us.speedups[name])}" for name in over]
        line.append(" / ".join(f"{share:.0f}" for share in _shares(record, cell, all_threads)))
        line.append(" / ".join(f"{by_name[name].error:.1e}" for name in shown))
        line.append(" / ".join(mebibytes(by_name[name].extra_bytes) for name in shown))
        lines.append(line)
    left = 2
    return "\n".join([*_table(header, lines, left), "", _caption(record, cells)])


def _shares(record: Record, like: CellRecord, all_threads: Sequence[int]) -> list[float]:
    """Give the shares of the peak of cpuattn in the cells that differ in threads only."""
    found = {
        cell["threads"]: row.share * 100
        for cell in record["cells"]
        if (cell["case"], cell["isa"]) == (like["case"], like["isa"])
        for row in rows(cell)
        if row.is_us
    }
    return [found[threads] for threads in all_threads]


def _caption(record: Record, cells: Sequence[CellRecord]) -> str:
    first = cells[0]
    rounds = len(first["peak_gflops"])
    software = [f"{name} {record['versions'][name]}" for name in [*rivals(record), US]]
    wins = len(record["cells"]) - len(losses(record))
    return (
        f"{first['dtype']}, {count_threads(first['threads'])} of {machine(record)}, "
        f"{first['isa']}; {', '.join(software)}; medians of {rounds} interleaved rounds. "
        "Error: relative L2 distance to float64. MiB: memory that a call adds, result included. "
        f"{_pure_python(record)}"
        f"cpuattn is the fastest in {wins} of {len(record['cells'])} cells of the run: "
        "[every cell, losses included](docs/benchmarks.md); "
        "[how to measure it yourself](benchmarks/README.md)."
    )


def _pure_python(record: Record) -> str:
    for cell in headline_cells(record):
        by_name = {row.engine: row for row in rows(cell)}
        if cell["case"] == "one-head" and "pure Python" in by_name:
            slow, fast = duration(by_name["pure Python"].seconds), duration(by_name[US].seconds)
            return f"Pure Python takes {slow} for {cell['title']}, cpuattn {fast}. "
    return ""


def losses(record: Record) -> list[tuple[CellRecord, Row, str]]:
    """List the cells in which another engine is faster, and the fastest one."""
    return [
        (cell, row, min(row.speedups, key=lambda name: row.speedups[name]))
        for cell in record["cells"]
        for row in rows(cell)
        if row.is_us and min(row.speedups.values(), default=1) < 1
    ]


def machine(record: Record) -> str:
    """Name the machine of a run."""
    found = record["machine"]
    return f"{found['cpu']} ({found['cpus']} CPUs, {found['memory_gib']} GiB, {found['system']})"


def versions(record: Record) -> str:
    """Name the software of a run."""
    return ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def page(record: Record) -> str:
    """Make docs/benchmarks.md: every cell."""
    settings = record["settings"]
    origin = (
        f"Measured on {record['date']} on {machine(record)} with {versions(record)}, in "
        f"{settings['rounds']} rounds. The [README of the benchmark](../benchmarks/README.md) "
        "says how, and how to repeat it. Times move from machine to machine: compare ratios."
    )
    quiet = f"{peak_line(record['cells'])}; load before the run {settings['load_before']}"
    parts = [
        "# Benchmarks",
        "<!-- Made by benchmarks/report.py from benchmarks/results.json: do not edit. -->",
        origin,
        "![Share of the peak](pictures/benchmark-speed.svg)",
        "![Memory](pictures/benchmark-memory.svg)",
        NOTES,
        f"How quiet the machine was: {quiet}.",
        "## Where cpuattn is not the fastest",
        _losses(record),
    ]
    groups = dict.fromkeys((cell["isa"], cell["threads"]) for cell in record["cells"])
    for isa, threads in groups:
        cells = [c for c in record["cells"] if (c["isa"], c["threads"]) == (isa, threads)]
        peak = statistics.median(value for cell in cells for value in cell["peak_gflops"])
        parts.append(f"## {isa}, {count_threads(threads)} (peak {peak:.0f} GFLOP/s)")
        parts.append("\n".join(_cells(record, cells)))
    return "\n\n".join(parts) + "\n"


def _losses(record: Record) -> str:
    lines = [
        f"- {cell['case']}, {cell['isa']}, {count_threads(cell['threads'])}: {name} takes "
        f"{digits(row.speedups[name])} times the time of cpuattn."
        for cell, row, name in losses(record)
    ]
    return "\n".join(lines) or "Nowhere in this run."


def _cells(record: Record, cells: Sequence[CellRecord]) -> list[str]:
    over = [name for name in engine_names(record) if name != US]
    header = ["case", "shape", "engine", "time", "±", *(f"× {name}" for name in over)]
    header += ["GFLOP/s", "% of peak", "error", "MiB"]
    lines = []
    for cell in cells:
        for n, row in enumerate(rows(cell)):
            line = [cell["case"], cell["title"]] if n == 0 else ["", ""]
            line += [f"**{row.engine}**" if row.is_us else row.engine]
            line += [duration(row.seconds), f"{row.spread:.1%}"]
            line += [digits(row.speedups[name]) if name in row.speedups else "" for name in over]
            line += [digits(row.gflops), f"{row.share * 100:.1f}", f"{row.error:.1e}"]
            lines.append([*line, mebibytes(row.extra_bytes)])
    return _table(header, lines, left=3)


def _table(header: list[str], lines: list[list[str]], left: int) -> list[str]:
    rule = [":--" if n < left else "--:" for n in range(len(header))]
    return ["| " + " | ".join(line) + " |" for line in (header, rule, *lines)]
