"""Bar charts as SVG, without a plotting library: the same run gives the same bytes everywhere."""

import dataclasses
from collections.abc import Sequence
from html import escape

from cpuattn.bench.plot import headline_cells
from cpuattn.bench.results import CellRecord, Record, count_threads, engine_names, rows
from cpuattn.bench.table import MIB, mebibytes

COLOURS = ("#9aa0a6", "#4c78a8", "#f58518", "#3a9a4b")  # cpuattn, the last engine, is green
LABEL, LENGTH, NUMBER, BAR, GAP, TOP = 150, 470, 80, 13, 12, 66


@dataclasses.dataclass(frozen=True)
class Bar:
    """One engine's bar in the group of a case."""

    engine: str
    length: float
    text: str


def speed(record: Record) -> str:
    """Draw the share of the multiply-add peak that each engine reaches in each case."""
    groups = [
        (cell["case"], [Bar(row.engine, row.share, f"{row.share:.0%}") for row in rows(cell)])
        for cell in _without_pure_python(record)
    ]
    return _chart(f"Share of the multiply-add peak, {_where(record)}", groups, record)


def memory(record: Record) -> str:
    """Draw the memory that a call adds, in the cases where it is more than a few MiB."""
    groups = []
    for cell in _without_pure_python(record):
        found = [(row.engine, row.extra_bytes or 0) for row in rows(cell)]
        if max(size for _, size in found) >= 8 * MIB:
            bars = [Bar(engine, size, f"{mebibytes(size)} MiB") for engine, size in found]
            groups.append((cell["case"], bars))
    return _chart(f"Memory that a call adds, its result included, {_where(record)}", groups, record)


def _without_pure_python(record: Record) -> list[CellRecord]:
    return [cell for cell in headline_cells(record) if "pure Python" not in cell["engines"]]


def _where(record: Record) -> str:
    cell = headline_cells(record)[0]
    return f"{count_threads(cell['threads'])}, {cell['isa']}"


def _chart(title: str, groups: Sequence[tuple[str, Sequence[Bar]]], record: Record) -> str:
    names = [name for name in engine_names(record) if name != "pure Python"]
    colour = dict(zip(names, COLOURS[-len(names) :], strict=True))
    longest = max((bar.length for _, bars in groups for bar in bars), default=0) or 1
    parts = [_text(12, 24, title, "bold")]
    for n, name in enumerate(names):
        parts += [
            _box(LABEL + 110 * n, 38, 12, colour[name]),
            _text(LABEL + 110 * n + 18, 48, name),
        ]
    y = TOP
    for label, bars in groups:
        parts.append(_text(LABEL - 8, y + BAR * len(bars) / 2 + 4, label, "end"))
        for bar in bars:
            width = bar.length / longest * LENGTH
            parts.append(_box(LABEL, y, width, colour[bar.engine]))
            parts.append(_text(LABEL + width + 5, y + BAR - 2, bar.text))
            y += BAR
        y += GAP
    return "\n".join([_head(y), *parts, "</svg>", ""])


def _head(height: float) -> str:
    width = LABEL + LENGTH + NUMBER
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" '
        'font-family="sans-serif" font-size="12">\n'
        "<style>.bold {font-weight: bold} .end {text-anchor: end}</style>\n"
        f'<rect width="{width}" height="{height:g}" fill="white"/>'
    )


def _box(x: float, y: float, width: float, colour: str) -> str:
    height = BAR - 1
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attribute}>{escape(words)}</text>'
