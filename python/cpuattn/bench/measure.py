"""The run: every engine of a cell in turns, round after round.

A slow moment of the machine then hits all of them, and the medians over the rounds pass over it.
The peak rates of multiply-adds and of reads are measured in the same rounds, by one more process;
a round in which the multiply-adds were slow is measured again.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpuattn.bench.case import Case
from cpuattn.bench.engines import ENGINES, why_not
from cpuattn.bench.exact import distance, exact
from cpuattn.bench.process import BenchError, EngineError, EngineProcess, started
from cpuattn.bench.results import US, CellRecord, EngineRecord, count_threads, new_cell

# Long enough for several milliseconds of multiply-adds after the clock of the CPU has settled.
PEAK_SECONDS = 0.03
# A round is noisy if its peak is below this share of the best one of its cell. As many rounds again
# are measured at most.
QUIET = 0.9
# Far above the error of any correct engine, far below any wrong one. In bfloat16 weights may
# be rounded to 8 bits, and in int8 an engine may round keys and values in its own way.
LARGEST_ERROR = {
    "float32": 1e-4,
    "float64": 1e-12,
    "float16": 2e-3,
    "bfloat16": 2e-2,
    "int8": 3e-2,
}

Advance = Callable[[str], None]
Save = Callable[[CellRecord], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure."""

    cases: Sequence[Case]
    engines: Sequence[str]
    threads: Sequence[int]
    isas: Sequence[str]
    rounds: int
    turn_seconds: float  # for which one engine is called in one round
    done: frozenset[tuple[str, str, int]] = frozenset()  # cells that are there: case, ISA, threads

    def cells(self, isa: str) -> list[tuple[Case, list[int]]]:
        """List the cases on an instruction set, and the numbers of threads that are to be done."""
        found = [
            (case, [n for n in self.threads if (case.name, isa, n) not in self.done])
            for case in self.cases
        ]
        return [(case, threads) for case, threads in found if threads]

    def steps(self) -> int:
        """Count the rounds of all cells."""
        return self.rounds * sum(len(n) for isa in self.isas for _, n in self.cells(isa))


def measure(plan: Plan, advance: Advance, save: Save) -> dict[str, str]:
    """Carry out a plan.

    Parameters
    ----------
    plan : Plan
        What to measure.
    advance : callable
        Called with the name of the cell after each of the plan's steps, while no engine runs.
    save : callable
        Called with each cell when it is complete.

    Returns
    -------
    dict of str to str
        What the engines are.

    Raises
    ------
    BenchError
        If the process of an engine ends, or cpuattn fails.
    """
    versions: dict[str, str] = {}
    for isa in plan.isas:
        if not plan.cells(isa):
            continue
        with started(plan.engines, isa) as engines, EngineProcess(US, isa) as meter:
            for engine in engines.values():
                versions = engine.ask("versions") | versions  # the first set wins
            for case, all_threads in plan.cells(isa):
                expected = exact(case)
                for threads in all_threads:
                    cell = new_cell(case, isa, threads)
                    _prepare(engines, case, cell, expected)
                    _time(plan, cell, engines, meter, advance)
                    save(cell)
    return versions


def _prepare(
    engines: dict[str, EngineProcess], case: Case, cell: CellRecord, expected: NDArray[np.float64]
) -> None:
    """Make engines ready for a case; those that cannot are left out, with the reason."""
    for name in ENGINES:
        reason = why_not(name, case, cell["isa"])
        if reason is None and name in engines:
            try:
                record = _check(engines[name], case, cell["threads"], expected)
            except EngineError as error:
                if name == US:
                    raise
                reason = f"failed: {error.complaint}"
            else:
                # A wrong result of cpuattn is told when the run ends.
                if record["error"] <= LARGEST_ERROR[case.dtype] or name == US:
                    cell["engines"][name] = record
                else:
                    reason = f"wrong result: error {record['error']:.1e}"
        if reason is not None:
            cell["left_out"][name] = reason


def _check(
    engine: EngineProcess, case: Case, threads: int, expected: NDArray[np.float64]
) -> EngineRecord:
    engine.ask("prepare", case=dataclasses.asdict(case), threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.npy"
        extra_bytes: int | None = engine.ask("check", path=str(path))
        result = np.load(path)
    if result.shape != expected.shape:
        raise BenchError(f"{engine.engine}: a result of shape {result.shape}")
    error = distance(case, result, expected)
    return EngineRecord(seconds=[], error=error, extra_bytes=extra_bytes)


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round has measured."""

    seconds: dict[str, float]  # by engine
    peak_gflops: float
    read_gbytes: float


def _time(
    plan: Plan,
    cell: CellRecord,
    engines: dict[str, EngineProcess],
    meter: EngineProcess,
    advance: Advance,
) -> None:
    names, threads = list(cell["engines"]), cell["threads"]
    rounds: list[Round] = []
    while not is_enough(rounds, plan.rounds):
        first = len(rounds) % len(names)  # each comes after each other one: none after the slowest
        seconds = {
            name: engines[name].ask("time", seconds=plan.turn_seconds)
            for name in names[first:] + names[:first]
        }
        limits = meter.ask("limits", dtype=cell["dtype"], threads=threads, seconds=PEAK_SECONDS)
        rounds.append(Round(seconds, *limits))
        if len(rounds) <= plan.rounds:
            advance(f"{cell['case']}, {cell['isa']}, {count_threads(threads)}")
    cell["repeated_rounds"] = len(rounds) - plan.rounds
    kept = quietest(rounds, plan.rounds)
    cell["peak_gflops"] = [_short(each.peak_gflops) for each in kept]
    cell["read_gbytes"] = [_short(each.read_gbytes) for each in kept]
    for name in names:
        cell["engines"][name]["seconds"] = [_short(each.seconds[name]) for each in kept]


def is_enough(rounds: Sequence[Round], wanted: int) -> bool:
    """Tell whether enough rounds are quiet, or too many measured for more to be of use."""
    best = max((each.peak_gflops for each in rounds), default=0)
    quiet = sum(each.peak_gflops >= QUIET * best for each in rounds)
    return quiet >= wanted or len(rounds) >= 2 * wanted


def quietest(rounds: Sequence[Round], wanted: int) -> list[Round]:
    """Choose the rounds with the highest peaks, in the order in which they were measured."""
    chosen = sorted(rounds, key=lambda each: each.peak_gflops, reverse=True)[:wanted]
    return [each for each in rounds if each in chosen]


def _short(number: float) -> float:
    """Drop the digits that mean nothing."""
    return float(f"{number:.5g}")
