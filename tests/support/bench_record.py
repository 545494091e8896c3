"""A run of the benchmark made by hand."""

from cpuattn.bench.case import Case
from cpuattn.bench.cases import select
from cpuattn.bench.results import SCHEMA, CellRecord, EngineRecord, Record, new_cell

MIB = 2**20


def _cell(threads: int, case: Case, **milliseconds: list[float]) -> CellRecord:
    """Make a cell; the engines' errors are 1e-7, 2e-7, and so on, their memory as many MiB."""
    made = new_cell(case, "avx2", threads)
    made["peak_gflops"] = [100.0 * threads, 110.0 * threads, 80.0 * threads]
    made["read_gbytes"] = [20.0, 21.0, 19.0]
    made["left_out"] = {"OpenVINO": "not installed"}
    for n, (name, times) in enumerate(milliseconds.items(), 1):
        made["engines"][name] = EngineRecord(
            seconds=[time / 1000 for time in times], error=n * 1e-7, extra_bytes=n * MIB
        )
    return made


def make_record() -> Record:
    """Make a run by hand, in which torch wins once."""
    prefill, decode = select(["prefill-1024", "decode-4096"])
    cells = [
        _cell(1, prefill, NumPy=[90, 100, 120], torch=[50, 50, 50], cpuattn=[25, 24, 40]),
        _cell(2, prefill, NumPy=[60, 60, 60], torch=[30, 30, 30], cpuattn=[12, 12, 12]),
        _cell(1, decode, NumPy=[9, 9, 9], torch=[1.5, 1.5, 1.5], cpuattn=[2, 2, 2]),
        _cell(2, decode, NumPy=[9, 9, 9], torch=[4, 4, 4], cpuattn=[2, 2, 2]),
    ]
    cells[0]["repeated_rounds"] = 1
    cells[2]["left_out"]["JAX"] = "not installed"
    return Record(
        schema=SCHEMA,
        date="2026-01-31",
        machine={"cpu": "Abacus 9", "cpus": 2, "memory_gib": 4, "system": "Linux x86_64"},
        versions={"NumPy": "2.0", "NumPy's BLAS": "blis", "torch": "3.0", "cpuattn": "0.1"},
        settings={"turn_seconds": 0.1, "load_before": 0.0, "removed_variables": []},
        cells=cells,
    )
