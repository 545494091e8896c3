"""Line charts on two logarithmic axes: what a call costs as sequences become longer."""

import math
from collections.abc import Callable, Mapping, Sequence

from svg import drawing, line, text

from cpuattn.bench.cases import select
from cpuattn.bench.plot import headline_cells
from cpuattn.bench.results import Record, Row, count_threads, engine_names, rows
from cpuattn.bench.table import MIB, duration

# Of one shape but for the length.
CASES = "prefill-512", "prefill-1024", "prefill-2048", "prefill-4096"
COLOURS = {
    "NumPy": "#4c78a8",
    "torch": "#f58518",
    "JAX": "#e377c2",
    "ORT Attention": "#9467bd",
    "ORT MHA": "#bcbd22",
    "ORT GQA": "#8c564b",
    "OpenVINO": "#d62728",
    "OpenVINO stateful": "#17becf",
    "cpuattn": "#3a9a4b",
}
LEFT, TOP, WIDTH, HEIGHT, NAMES, BELOW = 80, 40, 460, 340, 140, 40

Curves = Mapping[str, Sequence[tuple[float, float]]]


def time(record: Record) -> str:
    """Draw the time of a call over the length."""
    return _chart("Time of a call", record, lambda row: row.seconds, duration)


def memory(record: Record) -> str:
    """Draw the memory that a call adds over the length."""
    # Nothing has no place on a logarithmic axis, and less than this is not counted exactly.
    return _chart(
        "Memory that a call adds, its result included",
        record,
        lambda row: max((row.extra_bytes or 0) / MIB, 0.25),
        lambda size: f"{size:g} MiB",
    )


def _chart(
    title: str, record: Record, cost: Callable[[Row], float], write: Callable[[float], str]
) -> str:
    lengths = {case.name: case.keys for case in select(CASES)}
    cells = [cell for cell in headline_cells(record) if cell["case"] in lengths]
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in engine_names(record)}
    for cell in cells:
        for row in rows(cell):
            curves[row.engine].append((lengths[cell["case"]], cost(row)))
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return drawing(LEFT + WIDTH, TOP, [text(12, 24, f"{title}: not measured", "bold")])
    shape = cells[0]["title"].split(" × ")
    where = f"{shape[1]} heads × length × {shape[3]}, {count_threads(cells[0]['threads'])}"
    parts = [text(12, 24, f"{title}: {where}, {cells[0]['isa']}", "bold")]
    return drawing(
        LEFT + WIDTH + NAMES, TOP + HEIGHT + BELOW, parts + _axes_and_curves(curves, write)
    )


def _axes_and_curves(curves: Curves, write: Callable[[float], str]) -> list[str]:
    lengths = sorted({x for points in curves.values() for x, _ in points})
    costs = [y for points in curves.values() for _, y in points]
    low = 10 ** math.floor(math.log10(min(costs)))
    high = 10 ** math.ceil(math.log10(max(costs)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / lengths[0]) / (math.log(lengths[-1] / lengths[0]) or 1)
        up = math.log(y / low) / (math.log(high / low) or 1)
        return LEFT + across * WIDTH, TOP + (1 - up) * HEIGHT

    parts = []
    for power in range(round(math.log10(high / low)) + 1):
        left, y = place(lengths[0], low * 10**power)
        parts += [line([(left, y), (left + WIDTH, y)], "#dddddd")]
        parts += [text(left - 6, y + 4, write(low * 10**power), "end")]
    for length in lengths:
        x, bottom = place(length, low)
        parts += [text(x, bottom + 18, f"{length:g}", "middle")]
    ends = []
    for name, points in curves.items():
        colour = COLOURS.get(name, "#000000")
        parts.append(
            line([place(x, y) for x, y in points], colour, 2.5 if name == "cpuattn" else 1.5)
        )
        ends.append((place(*points[-1])[1], name, colour))
    return parts + _names(ends)


def _names(ends: Sequence[tuple[float, str, str]]) -> list[str]:
    """Write the names at the ends of their curves, one below the other where these are close."""
    parts, free = [], 0.0
    for end, name, colour in sorted(ends):
        y = max(end + 4, free)
        parts.append(text(LEFT + WIDTH + 8, y, name).replace("<text", f'<text fill="{colour}"'))
        free = y + 14
    return parts
