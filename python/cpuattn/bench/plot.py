"""A run as a picture: speed beside the peak, error, and memory, for each case and engine."""

import importlib
import statistics
from pathlib import Path
from typing import Any

from cpuattn.bench.results import CellRecord, Record, Row, count_threads, engine_names, rows
from cpuattn.bench.table import MIB

COLOURS = {
    "pure Python": "0.8",
    "NumPy": "tab:blue",
    "torch": "tab:orange",
    "JAX": "tab:pink",
    "ORT Attention": "tab:purple",
    "ORT MHA": "tab:olive",
    "ORT GQA": "tab:brown",
    "OpenVINO": "tab:red",
    "OpenVINO stateful": "tab:cyan",
    "cpuattn": "tab:green",
}


def check_format(path: Path) -> None:
    """Fail before any work if the suffix of a picture is no format.

    Raises
    ------
    ValueError
        If it is none.
    """
    canvas = importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
    formats = sorted(canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise ValueError(f"--plot: {path.name} must end in one of .{', .'.join(formats)}")


def draw(record: Record, path: Path) -> None:
    """Draw a run, its cells with the most threads and the first instruction set.

    Parameters
    ----------
    record : Record
        The run.
    path : Path
        The picture to write, in the format of its suffix.
    """
    cells = headline_cells(record)
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(4 + 1.2 * len(cells), 10), layout="constrained"
    )
    speed, error, memory = figure.subplots(3, 1, sharex=True)
    names = engine_names(record)
    _bars(speed, cells, names, lambda row: row.gflops)
    for n, cell in enumerate(cells):
        peak = statistics.median(cell["peak_gflops"])
        label = "multiply-add peak" if n == 0 else None
        speed.plot([n - 0.45, n + 0.45], [peak, peak], color="black", linewidth=1, label=label)
    speed.set(title="speed", ylabel="GFLOP/s", yscale="log")
    figure.legend(loc="outside lower center", ncols=len(names) + 1)
    # Pure Python computes in float64, in another region of the axis.
    singles = [name for name in names if name != "pure Python"]
    _bars(error, cells, singles, lambda row: row.error)
    error.set(title="error against float64", ylabel="relative L2", yscale="log")
    _bars(memory, cells, names, lambda row: None if row.extra_bytes is None else _mib(row))
    memory.set(title="memory that a call adds, result included", ylabel="MiB", yscale="log")
    memory.set_xticks(range(len(cells)), [cell["case"] for cell in cells], rotation=30, ha="right")
    figure.suptitle(
        f"{record['machine']['cpu']}, {count_threads(cells[0]['threads'])}, {cells[0]['isa']}"
    )
    figure.savefig(path, dpi=120)


def headline_cells(record: Record) -> list[CellRecord]:
    """Choose the cells with the most threads, on the first instruction set of the run."""
    threads = max(cell["threads"] for cell in record["cells"])
    isa = record["cells"][0]["isa"]
    return [cell for cell in record["cells"] if (cell["threads"], cell["isa"]) == (threads, isa)]


def _bars(axes: Any, cells: list[CellRecord], names: list[str], height: Any) -> None:
    width = 0.85 / len(names)
    for k, name in enumerate(names):
        found = [(n, row) for n, cell in enumerate(cells) for row in rows(cell)]
        points = [
            (n + (k - (len(names) - 1) / 2) * width, height(row))
            for n, row in found
            if row.engine == name and height(row) is not None
        ]
        if points:
            axes.bar(*zip(*points, strict=True), width, label=name, color=COLOURS.get(name))
    axes.grid(axis="y", alpha=0.3)


def _mib(row: Row) -> float:
    # Nothing has no place on a logarithmic axis; the kernel counts pages of 4 KiB.
    return max(row.extra_bytes or 0, 4096) / MIB
