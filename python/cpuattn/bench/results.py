"""What a run leaves behind: the JSON file, and the figures that follow from it.

Only measurements are stored. Medians, ratios and shares are computed here when a table or a plot
wants them, so that none of them can disagree with its measurement.
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any, TypedDict

from cpuattn.bench.cases import Case

SCHEMA = 1
US = "cpuattn"


class EngineRecord(TypedDict):
    """One engine in one cell."""

    seconds: list[float]  # of one call, one median for each round
    error: float  # relative L2 distance to the float64 result
    extra_bytes: int | None  # by which a call makes the process grow, the result included


class CellRecord(TypedDict):
    """One case on one number of threads and one instruction set."""

    case: str
    title: str
    dtype: str
    flops: int
    isa: str
    threads: int
    peak_gflops: list[float]  # one for each round
    engines: dict[str, EngineRecord]


class Record(TypedDict):
    """A whole run."""

    schema: int
    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    settings: dict[str, str | int | float | list[str]]
    cells: list[CellRecord]


@dataclasses.dataclass(frozen=True)
class Row:
    """What a table shows of one engine in one cell."""

    engine: str
    seconds: float  # median
    spread: float  # half the distance between the quartiles, as a share of the median
    gflops: float
    share: float  # of the multiply-add peak of the cell's instruction set and threads
    error: float
    extra_bytes: int | None
    speedups: dict[str, float]  # over the other engines

    @property
    def is_us(self) -> bool:
        """Tell whether it is cpuattn."""
        return self.engine == US


def new_cell(case: Case, isa: str, threads: int) -> CellRecord:
    """Make a cell without measurements."""
    return CellRecord(
        case=case.name,
        title=case.title(),
        dtype=case.dtype,
        flops=case.flops(),
        isa=isa,
        threads=threads,
        peak_gflops=[],
        engines={},
    )


def rows(cell: CellRecord) -> list[Row]:
    """Summarise a cell, one row for each engine, cpuattn last."""
    peak = statistics.median(cell["peak_gflops"])
    medians = {
        name: statistics.median(engine["seconds"]) for name, engine in cell["engines"].items()
    }
    return [
        Row(
            engine=name,
            seconds=medians[name],
            spread=_spread(engine["seconds"]),
            gflops=cell["flops"] / medians[name] / 1e9,
            share=cell["flops"] / medians[name] / 1e9 / peak,
            error=engine["error"],
            extra_bytes=engine["extra_bytes"],
            speedups={
                other: seconds / medians[name]
                for other, seconds in medians.items()
                if other != name
            },
        )
        for name, engine in cell["engines"].items()
    ]


def _spread(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return (upper - lower) / 2 / middle


def count_threads(threads: int) -> str:
    """Write a number of threads in words."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def engine_names(record: Record) -> list[str]:
    """Name the engines of a run in the order of its tables."""
    return list(dict.fromkeys(name for cell in record["cells"] for name in cell["engines"]))


def save(record: Record, path: Path) -> None:
    """Write a run as JSON."""
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Record:
    """Read a run.

    Raises
    ------
    ValueError
        If the file is not a run of this version of the benchmark.
    """
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path} has schema {found}; this benchmark reads schema {SCHEMA}")
    record: Record = content
    return record
