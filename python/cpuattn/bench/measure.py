"""The run: every engine of a cell in turns, round after round.

A slow moment of the machine then hits all of them, and the medians over the rounds pass over it.
The peak rate of multiply-adds is measured in the same rounds, by one more process.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpuattn.bench.cases import Case
from cpuattn.bench.engines import takes
from cpuattn.bench.process import EngineProcess, started
from cpuattn.bench.results import US, CellRecord, EngineRecord, count_threads, new_cell

# Long enough for several milliseconds of multiply-adds after the clock of the CPU has settled.
PEAK_SECONDS = 0.03

Advance = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure."""

    cases: Sequence[Case]
    engines: Sequence[str]
    threads: Sequence[int]
    isas: Sequence[str]
    rounds: int
    turn_seconds: float  # for which one engine is called in one round

    def steps(self) -> int:
        """Count the rounds of all cells."""
        return len(self.cases) * len(self.threads) * len(self.isas) * self.rounds


def measure(plan: Plan, advance: Advance) -> tuple[list[CellRecord], dict[str, str]]:
    """Carry out a plan.

    Parameters
    ----------
    plan : Plan
        What to measure.
    advance : callable
        Called with the name of the cell after each of the plan's steps, while no engine runs.

    Returns
    -------
    cells : list of CellRecord
        In the order of the plan's cases, for each instruction set.
    versions : dict of str to str
        What the engines are.

    Raises
    ------
    BenchError
        If an engine fails.
    """
    cells = []
    versions: dict[str, str] = {}
    for isa in plan.isas:
        with started(plan.engines, isa) as engines, EngineProcess(US, isa) as meter:
            for engine in engines.values():
                versions = engine.ask("versions") | versions  # those of the first set stay
            for case in plan.cases:
                part = {name: engine for name, engine in engines.items() if takes(name, case)}
                exact = case.exact()
                for threads in plan.threads:
                    cell = new_cell(case, isa, threads)
                    for name, engine in part.items():
                        cell["engines"][name] = _prepare(engine, case, threads, exact)
                    _time(plan, cell, part, meter, advance)
                    cells.append(cell)
    return cells, versions


def _prepare(
    engine: EngineProcess, case: Case, threads: int, exact: NDArray[np.float64]
) -> EngineRecord:
    """Make an engine ready for a case, and compare its result with the exact one."""
    engine.ask("prepare", case=dataclasses.asdict(case), threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.npy"
        extra_bytes: int | None = engine.ask("check", path=str(path))
        result = np.load(path)
    error = float(np.linalg.norm(result - exact) / np.linalg.norm(exact))
    return EngineRecord(seconds=[], error=error, extra_bytes=extra_bytes)


def _time(
    plan: Plan,
    cell: CellRecord,
    engines: dict[str, EngineProcess],
    meter: EngineProcess,
    advance: Advance,
) -> None:
    names = list(engines)
    for turn in range(plan.rounds):
        first = turn % len(names)  # each comes after each other one: none always after the slowest
        for name in names[first:] + names[:first]:
            seconds = engines[name].ask("time", seconds=plan.turn_seconds)
            cell["engines"][name]["seconds"].append(seconds)
        threads = cell["threads"]
        peak = meter.ask("peak", dtype=cell["dtype"], threads=threads, seconds=PEAK_SECONDS)
        cell["peak_gflops"].append(peak)
        advance(f"{cell['case']}, {cell['isa']}, {count_threads(threads)}")
