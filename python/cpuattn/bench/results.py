"""What a run leaves behind: the JSON file, and the figures that follow from it.

Only measurements are stored. Medians, ratios and shares are computed here when a table or a plot
wants them, so that none of them can disagree with its measurement.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from cpuattn.bench import work
from cpuattn.bench.case import Case
from cpuattn.bench.engines import ENGINES

SCHEMA = 2
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
    bytes: int
    limit: Literal["multiply-adds", "reads"]  # what a call cannot go faster than
    isa: str
    threads: int
    peak_gflops: list[float]  # one for each round
    read_gbytes: list[float]
    repeated_rounds: int
    engines: dict[str, EngineRecord]
    left_out: dict[str, str]  # engines that did not take part, and why


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
    share: float  # of the cell's limit, on its instruction set and threads
    error: float
    extra_bytes: int | None
    ratio: float  # its time, divided by the time of cpuattn

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
        flops=work.flops(case),
        bytes=work.moved_bytes(case),
        limit="reads" if case.sets > 1 else "multiply-adds",
        isa=isa,
        threads=threads,
        peak_gflops=[],
        read_gbytes=[],
        repeated_rounds=0,
        engines={},
        left_out={},
    )


def rows(cell: CellRecord) -> list[Row]:
    """Summarise a cell, one row for each engine, cpuattn last."""
    medians = {
        name: statistics.median(engine["seconds"]) for name, engine in cell["engines"].items()
    }
    shortest = shortest_seconds(cell)
    return [
        Row(
            engine=name,
            seconds=medians[name],
            spread=_spread(engine["seconds"]),
            gflops=cell["flops"] / medians[name] / 1e9,
            share=shortest / medians[name],
            error=engine["error"],
            extra_bytes=engine["extra_bytes"],
            ratio=medians[name] / medians[US],
        )
        for name, engine in cell["engines"].items()
    ]


def shortest_seconds(cell: CellRecord) -> float:
    """Give the time at the cell's limit."""
    if cell["limit"] == "reads":
        return cell["bytes"] / statistics.median(cell["read_gbytes"]) / 1e9
    return cell["flops"] / statistics.median(cell["peak_gflops"]) / 1e9


def best_peer(found: Sequence[Row]) -> Row | None:
    """Choose the fastest row that is not ours."""
    return min((row for row in found if not row.is_us), key=lambda row: row.seconds, default=None)


def geometric_mean(values: Sequence[float]) -> float:
    """Average ratios, so that twice as fast and half as fast cancel."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


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
    found = {name for cell in record["cells"] for name in cell["engines"]}
    return [name for name in ENGINES if name in found]


def put(record: Record, cell: CellRecord, order: Sequence[str]) -> None:
    """Add a cell, in the place of an older one, and sort: instruction sets, cases, threads.

    Parameters
    ----------
    record : Record
        Changed in place.
    cell : CellRecord
        The new cell.
    order : sequence of str
        The names of the cases in the order of the tables.
    """
    kept = [old for old in record["cells"] if key(old) != key(cell)]
    isas = list(dict.fromkeys(each["isa"] for each in [*kept, cell]))
    record["cells"] = sorted(
        [*kept, cell],
        key=lambda each: (isas.index(each["isa"]), order.index(each["case"]), each["threads"]),
    )


def key(cell: CellRecord) -> tuple[str, str, int]:
    """Say which cell it is."""
    return cell["case"], cell["isa"], cell["threads"]


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
