"""What the tables in Markdown have in common."""

from collections.abc import Sequence

from cpuattn.bench.results import CellRecord, Record, Row, best_peer, rows


def table(header: list[str], lines: list[list[str]], left: int) -> list[str]:
    """Write a table whose first `left` columns are aligned to the left."""
    rule = [":--" if n < left else "--:" for n in range(len(header))]
    return ["| " + " | ".join(line) + " |" for line in (header, rule, *lines)]


def ours(cell: CellRecord) -> Row:
    """Give the row of cpuattn."""
    return next(row for row in rows(cell) if row.is_us)


def faster_peers(cells: Sequence[CellRecord]) -> list[tuple[CellRecord, Row]]:
    """List the cells in which another engine is faster, and the fastest one."""
    found = [(cell, best_peer(rows(cell))) for cell in cells]
    return [(cell, peer) for cell, peer in found if peer is not None and peer.ratio < 1]


def ratios(cells: Sequence[CellRecord], engine: str | None = None) -> list[float]:
    """Give how many times as long as cpuattn an engine takes, or the best peer, where it runs."""
    found = []
    for cell in cells:
        by_name = {row.engine: row for row in rows(cell)}
        row = best_peer(list(by_name.values())) if engine is None else by_name.get(engine)
        found += [] if row is None else [row.ratio]
    return found


def machine(record: Record) -> str:
    """Name the machine of a run."""
    found = record["machine"]
    return f"{found['cpu']} ({found['cpus']} CPUs, {found['memory_gib']} GiB, {found['system']})"


def rounds(cells: Sequence[CellRecord]) -> str:
    """Say how many rounds the cells have."""
    found = sorted({len(cell["peak_gflops"]) for cell in cells})
    return " to ".join(map(str, dict.fromkeys((found[0], found[-1]))))
