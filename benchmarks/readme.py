"""The table of README.md: the most threads, a case for each use."""

from collections.abc import Sequence

from tables import faster_peers, machine, ours, ratios, rounds, table

from cpuattn.bench.plot import headline_cells
from cpuattn.bench.results import (
    US,
    CellRecord,
    Record,
    best_peer,
    count_threads,
    geometric_mean,
    rows,
)
from cpuattn.bench.table import digits, duration, mebibytes

# What README.md shows of the cases: each stands for a use.
USES = {
    "tiny-8": "a tiny call",
    "prefill-1024": "prefill",
    "prefill-4096": "prefill",
    "prefill-2048-d128": "wide heads",
    "bert": "encoder batch",
    "bert-ragged": "ragged batch",
    "vit": "image encoder",
    "causal-2048": "causal",
    "causal-gqa-2048": "causal, grouped heads",
    "window-2048": "sliding window",
    "float-mask": "float mask",
    "alibi": "causal, ALiBi",
    "softcap": "causal, softcap",
    "cross": "cross attention",
    "mla": "latent attention",
    "decode-1-to-1": "decode",
    "decode-4096": "decode, grouped heads",
    "decode-32768": "decode, long",
    "decode-batch-8": "decode, batch",
    "prefill-2048-bf16": "prefill, bfloat16",
    "prefill-2048-fp16": "prefill, float16",
    "decode-4096-bf16": "decode, bfloat16",
    "decode-4096-fp16": "decode, float16",
    "decode-4096-int8": "decode, int8 cache",
    "decode-4-new-bf16": "4 new tokens, bfloat16",
    "decode-4096-paged-16": "decode, pages of 16",
    "varlen-batch": "packed sequences",
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
    all_threads = sorted({cell["threads"] for cell in record["cells"]})
    header = ["use", "shape", "best peer", "torch", "NumPy", US, "× best peer", "× torch"]
    header.append(f"% of limit, {' / '.join(map(str, all_threads))} threads")
    header += [f"error, best peer / {US}", f"MiB, best peer / {US}"]
    lines = [_line(record, cell, all_threads) for cell in cells]
    return "\n".join([*table(header, lines, left=3), "", _caption(record, cells)])


def _line(record: Record, cell: CellRecord, all_threads: Sequence[int]) -> list[str]:
    by_name = {row.engine: row for row in rows(cell)}
    us, peer = by_name[US], best_peer(list(by_name.values()))
    times = [duration(by_name[n].seconds) if n in by_name else "-" for n in ("torch", "NumPy")]
    shown = [us] if peer is None else [peer, us]
    shares = _shares(record, cell)
    return [
        USES[cell["case"]],
        cell["title"].split(",")[0],
        "-" if peer is None else f"{peer.engine} {duration(peer.seconds)}",
        *times,
        f"**{duration(us.seconds)}**",
        "-" if peer is None else digits(peer.ratio),
        digits(by_name["torch"].ratio) if "torch" in by_name else "-",
        " / ".join(f"{shares[n]:.0%}"[:-1] if n in shares else "-" for n in all_threads),
        " / ".join(f"{row.error:.1e}" for row in shown),
        " / ".join(mebibytes(row.extra_bytes) for row in shown),
    ]


def _shares(record: Record, like: CellRecord) -> dict[int, float]:
    """Give the shares of the limit of cpuattn in the cells that differ in threads only."""
    return {
        cell["threads"]: ours(cell).share
        for cell in record["cells"]
        if (cell["case"], cell["isa"]) == (like["case"], like["isa"])
    }


def _caption(record: Record, cells: Sequence[CellRecord]) -> str:
    first = cells[0]
    others = any(cell["dtype"] != first["dtype"] for cell in cells)
    dtype = f"{first['dtype']} where no other is named" if others else first["dtype"]
    versions = record["versions"]
    names = ("NumPy", "torch", "JAX", "onnxruntime", "OpenVINO", US)
    software = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    everywhere = record["cells"]
    wins = len(everywhere) - len(faster_peers(everywhere))
    mean = geometric_mean(ratios(everywhere) or [1.0])
    return (
        f"{dtype}, {count_threads(first['threads'])} of {machine(record)}, "
        f"{first['isa']}; {software}; medians of {rounds(cells)} interleaved rounds. "
        "Best peer: the fastest of all others that can do it. × means how many times faster "
        f"{US} is. Limit: multiply-adds, in decode reads from memory, measured in the same rounds. "
        "Error: relative L2 distance to float64. MiB: memory that a call adds, result included. "
        f"{_pure_python(record)}"
        f"{US} is the fastest in {wins} of {len(everywhere)} cells of the run, and "
        f"{digits(mean)} times as fast as the best peer in the geometric mean: "
        "[every cell, losses included](docs/benchmarks.md); "
        "[how to measure it yourself](benchmarks/README.md)."
    )


def _pure_python(record: Record) -> str:
    for cell in headline_cells(record):
        by_name = {row.engine: row for row in rows(cell)}
        if cell["case"] == "one-head" and "pure Python" in by_name:
            slow, fast = duration(by_name["pure Python"].seconds), duration(by_name[US].seconds)
            return f"Pure Python takes {slow} for {cell['title']}, {US} {fast}. "
    return ""
