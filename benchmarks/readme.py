"""The table of README.md: the most threads, a case for each use, and every loss."""

from collections.abc import Sequence

from tables import faster_peers, machine, ours, ratios, rounds, table

from cpuattn.bench.plot import headline_cells
from cpuattn.bench.results import (
    US,
    CellRecord,
    Record,
    Row,
    best_peer,
    count_threads,
    geometric_mean,
    rows,
)
from cpuattn.bench.table import digits, duration

# What README.md shows of the cases: each stands for a use, and the hardest ones are among them.
USES = {
    "tiny-8": "a tiny call",
    "prefill-1024": "prefill",
    "causal-gqa-2048": "causal, grouped heads",
    "window-2048": "sliding window",
    "decode-1-to-1": "decode",
    "decode-4096": "decode, grouped heads",
    "prefill-2048-bf16": "prefill, bfloat16",
    "decode-4096-int8": "decode, int8 cache",
}


def text(record: Record) -> str:
    """Make the table of README.md with its caption.

    Raises
    ------
    ValueError
        If the run has none of these cases.
    """
    cells = [cell for cell in headline_cells(record) if cell["case"] in USES]
    if not cells:
        raise ValueError(f"the run has none of the cases that README.md shows: {', '.join(USES)}")
    header = ["use", "shape", "best peer", US, "× best peer", f"error, best peer / {US}"]
    lines = [_line(cell) for cell in cells]
    return "\n".join([*table(header, lines, left=3), "", _caption(record, cells)])


def _line(cell: CellRecord) -> list[str]:
    us, peer = ours(cell), best_peer(rows(cell))
    shown = [us] if peer is None else [peer, us]
    return [
        USES[cell["case"]],
        cell["title"].split(",")[0],
        "-" if peer is None else f"{peer.engine} {duration(peer.seconds)}",
        f"**{duration(us.seconds)}**",
        "-" if peer is None else digits(peer.ratio),
        " / ".join(f"{row.error:.1e}" for row in shown),
    ]


def _caption(record: Record, cells: Sequence[CellRecord]) -> str:
    first = cells[0]
    others = any(cell["dtype"] != first["dtype"] for cell in cells)
    dtype = f"{first['dtype']} where no other is named" if others else first["dtype"]
    versions = record["versions"]
    names = ("NumPy", "torch", "JAX", "onnxruntime", "OpenVINO", US)
    software = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    everywhere = record["cells"]
    losses = faster_peers(everywhere)
    mean = geometric_mean(ratios(everywhere) or [1.0])
    return (
        f"{dtype}, {count_threads(first['threads'])} of {machine(record)}, "
        f"{first['isa']}; {software}; medians of {rounds(cells)} interleaved rounds. "
        "Best peer: the fastest other library that can do it. × means how many times faster "
        f"{US} is. Error: relative L2 distance to float64. "
        f"{US} is the fastest in {len(everywhere) - len(losses)} of {len(everywhere)} cells of the "
        f"run, and {digits(mean)} times as fast as the best peer in the geometric mean. "
        f"{_losses(losses)}"
        "[Every cell](docs/benchmarks.md); [how to measure it yourself](benchmarks/README.md)."
    )


def _losses(losses: Sequence[tuple[CellRecord, Row]]) -> str:
    """Name the cells in which a peer is faster, and how long cpuattn takes there beside it."""
    if not losses:
        return ""
    each = (
        f"{cell['case']} on {count_threads(cell['threads'])} ({digits(peer.ratio)}, {peer.engine})"
        for cell, peer in losses
    )
    return f"It loses in {', '.join(each)}. "
