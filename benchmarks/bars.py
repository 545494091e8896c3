"""A bar chart: the share of the limit that cpuattn and the best peer reach in each case."""

from svg import box, drawing, text

from cpuattn.bench.plot import headline_cells
from cpuattn.bench.results import Record, Row, best_peer, count_threads, rows

LABEL, LENGTH, NUMBER, BAR, GAP, TOP = 150, 470, 150, 13, 8, 46
PEER, OURS = "#9aa0a6", "#3a9a4b"


def share(record: Record) -> str:
    """Draw the shares in the cells with the most threads."""
    cells = headline_cells(record)
    where = f"{count_threads(cells[0]['threads'])}, {cells[0]['isa']}"
    parts = [
        text(12, 20, f"Share of the limit, {where}", "bold"),
        text(12, 36, "Multiply-adds; in decode reads from memory, which caches can exceed."),
    ]
    y = float(TOP)
    groups = [(cell["case"], _shown(rows(cell))) for cell in cells]
    longest = max(row.share for _, found in groups for row in found)
    for case, found in groups:
        parts.append(text(LABEL - 8, y + BAR * len(found) / 2 + 4, case, "end"))
        for row in found:
            width = row.share / longest * LENGTH
            parts.append(box(LABEL, y, width, BAR - 1, OURS if row.is_us else PEER))
            parts.append(text(LABEL + width + 5, y + BAR - 2, f"{row.share:.0%} {row.engine}"))
            y += BAR
        y += GAP
    return drawing(LABEL + LENGTH + NUMBER, y, parts)


def _shown(found: list[Row]) -> list[Row]:
    peer = best_peer(found)
    return [row for row in found if row.is_us or row is peer]
