"""What narrow, paged and packed keys and values gain: pairs of cases that differ in one thing."""

from collections.abc import Sequence

from tables import ours

from cpuattn.bench.results import CellRecord, best_peer, rows
from cpuattn.bench.table import digits

BEST_PEER = "the best peer"
# Which case is compared with which others.
COMPARED = {
    "prefill-2048-bf16": ("prefill-2048", BEST_PEER),
    "prefill-2048-d128-bf16": ("prefill-2048-d128", BEST_PEER),
    "prefill-1024-fp16": ("prefill-1024", BEST_PEER),
    "prefill-2048-fp16": ("prefill-2048", BEST_PEER),
    "decode-4096-bf16": ("decode-4096", BEST_PEER),
    "decode-4096-fp16": ("decode-4096", BEST_PEER),
    "decode-4096-int8": ("decode-4096-bf16", BEST_PEER),
    "decode-32768-bf16": ("decode-32768", BEST_PEER),
    "decode-32768-fp16": ("decode-32768", BEST_PEER),
    "decode-32768-int8": ("decode-32768-bf16", BEST_PEER),
    "decode-4-new-bf16": ("decode-4-new", BEST_PEER),
    "decode-8-new-bf16": ("decode-8-new", BEST_PEER),
    "decode-4096-paged-16": ("decode-4096",),
    "decode-4096-paged-64": ("decode-4096",),
    "varlen-batch": ("varlen-padded", BEST_PEER),
}


def comparisons(cells: Sequence[CellRecord], all_threads: Sequence[int]) -> list[list[str]]:
    """Write a line for each comparison that the run allows: two names, and factors by threads.

    Parameters
    ----------
    cells : sequence of CellRecord
        On one instruction set.
    all_threads : sequence of int
        A column for each.

    Returns
    -------
    list of list of str
        Without what the run has no cells of.
    """
    by_key = {(cell["case"], cell["threads"]): cell for cell in cells}
    lines = []
    for case, others in COMPARED.items():
        for other in others:
            factors = [
                _factor(by_key.get((case, n)), other, by_key.get((other, n))) for n in all_threads
            ]
            if any(factors):
                lines.append([case, other, *(digits(x) if x else "-" for x in factors)])
    return lines


def _factor(cell: CellRecord | None, other: str, base: CellRecord | None) -> float | None:
    if cell is None:
        return None
    if other == BEST_PEER:
        peer = best_peer(rows(cell))
        return None if peer is None else peer.ratio
    # By operations, which are as many in both cases or fewer, where they are packed.
    return None if base is None else ours(cell).gflops / ours(base).gflops
