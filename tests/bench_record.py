"""A run of the benchmark made by hand."""

from cpuattn.bench.cases import Case, select
from cpuattn.bench.results import CellRecord, EngineRecord, Record, new_cell

MIB = 2**20


def _cell(threads: int, case: Case, **milliseconds: list[float]) -> CellRecord:
    """Make a cell; the engines' errors are 1e-7, 2e-7, and so on, their memory as many MiB."""
    made = new_cell(case, "avx2", threads)
    made["peak_gflops"] = [100.0 * threads, 110.0 * threads, 80.0 * threads]
    for n, (name, times) in enumerate(milliseconds.items(), 1):
        made["engines"][name] = EngineRecord(
            seconds=[time / 1000 for time in times], error=n * 1e-7, extra_bytes=n * MIB
        )
    return made


def make_record() -> Record:
    """Make a run by hand, in which torch wins once."""
    prefill, decode = select(["prefill-1024", "decode-4096"])
    return Record(
        schema=1,
        date="2026-01-31",
        machine={"cpu": "Abacus 9", "cpus": 2, "memory_gib": 4, "system": "Linux x86_64"},
        versions={"NumPy": "2.0", "NumPy's BLAS": "blis", "torch": "3.0", "cpuattn": "0.1"},
        settings={"rounds": 3, "turn_seconds": 0.1, "load_before": 0.0, "removed_variables": []},
        cells=[
            _cell(1, prefill, NumPy=[90, 100, 120], torch=[50, 50, 50], cpuattn=[25, 24, 40]),
            _cell(1, decode, NumPy=[9, 9, 9], torch=[1.5, 1.5, 1.5], cpuattn=[2, 2, 2]),
            _cell(2, prefill, NumPy=[60, 60, 60], torch=[30, 30, 30], cpuattn=[12, 12, 12]),
            _cell(2, decode, NumPy=[9, 9, 9], torch=[4, 4, 4], cpuattn=[2, 2, 2]),
        ],
    )
