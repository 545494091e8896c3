"""The command ``python -m cpuattn bench``."""

import argparse
import datetime as dt
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cpuattn
from cpuattn import _core
from cpuattn._programs import import_matplotlib, output_file
from cpuattn.bench import machine, results, table
from cpuattn.bench.case import Case
from cpuattn.bench.cases import CASES, QUICK, SHORT, select
from cpuattn.bench.engines import installed
from cpuattn.bench.measure import LARGEST_ERROR, Plan, measure
from cpuattn.bench.process import SPOILING_VARIABLES, BenchError
from cpuattn.bench.progress import bar

# Rounds, and seconds of one engine's turn in a round. The median of three rounds would let a moment
# in which something else ran decide which engine is shown as the faster one.
FULL = 9, 0.1
FAST = 7, 0.03


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    description = "Time attention in pure Python, NumPy, cpuattn and the peers that are installed."
    options = argparse.ArgumentParser("python -m cpuattn bench", description=description)
    options.add_argument("--quick", action="store_true", help="fewer cases, shorter turns: < 20 s")
    options.add_argument(
        "--cases",
        type=_cases,
        metavar="NAMES",
        help="separated by commas, * and ? allowed; a name that is none lists them all "
        f"(default: {', '.join(SHORT)})",
    )
    options.add_argument(
        "--threads",
        type=_positive_list,
        metavar="N,...",
        help="numbers of threads (default: 1 and what cpuattn.get_num_threads() says; quick: "
        "the latter)",
    )
    options.add_argument(
        "--isa",
        type=_isas,
        metavar="NAME,...",
        help=f"instruction sets of cpuattn: {', '.join(cpuattn.isas())}; with avx2 the others "
        "are held to AVX2 too, on a CPU that has more (default: the one in use)",
    )
    options.add_argument(
        "--rounds", type=_positive, metavar="N", help=f"default: {FULL[0]}; quick: {FAST[0]}"
    )
    options.add_argument(
        "--json", type=output_file, metavar="PATH", help="save the measurements here"
    )
    options.add_argument(
        "--merge",
        choices=("all", "missing"),
        help="keep the other cells of the file of --json; with 'missing' measure only those that "
        "it lacks, so that a run that was ended goes on",
    )
    options.add_argument("--plot", type=output_file, metavar="PATH", help="save a picture here")
    return options


def main(argv: Sequence[str]) -> int:
    """Measure, print, save; see `cpuattn.bench.main`."""
    args = _parse(argv)
    # What is missing is said now and not after minutes.
    importlib.import_module("threadpoolctl")
    importlib.import_module("ml_dtypes")
    plot = None
    if args.plot is not None:
        import_matplotlib()
        plot = importlib.import_module("cpuattn.bench.plot")
    removed = [name for name in SPOILING_VARIABLES if name in os.environ]
    if removed:
        names = " and ".join(removed)
        print(f"{names} would give NumPy other kernels than this CPU's: the engines run without.")
    busy = machine.load()
    if busy > 0.5:
        print(f"The machine is busy (load {busy:.1f}): compare ratios, not times.")
    try:
        if plot is not None:
            plot.check_format(args.plot)
        record = _record(args, removed, busy)
        _run(_plan(args, record), record, args.json)
    except (BenchError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table.show(record)
    if plot is not None:
        plot.draw(record, args.plot)
    written = [str(path) for path in (args.json, args.plot) if path is not None]
    if written:
        print(f"wrote {' and '.join(written)}")
    return complain(record)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    options = parser()
    args = options.parse_args(argv)
    if args.merge and args.json is None:
        options.error("--merge needs --json: the file whose cells are kept")
    return args


def _record(args: argparse.Namespace, removed: list[str], busy: float) -> results.Record:
    """Make the record of this run, with the cells of an older one that are to be kept."""
    record = results.Record(
        schema=results.SCHEMA,
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        machine=machine.describe(),
        versions={},
        settings={"load_before": round(busy, 2), "removed_variables": removed},
        cells=[],
    )
    if args.merge and args.json.is_file():
        old = results.load(args.json)
        if old["machine"] != record["machine"]:
            raise ValueError(f"{args.json} was measured on another machine")
        record["versions"], record["cells"] = old["versions"], old["cells"]
    return record


def _plan(args: argparse.Namespace, record: results.Record) -> Plan:
    rounds, turn_seconds = FAST if args.quick else FULL
    few = {cpuattn.get_num_threads()}
    done = frozenset(map(results.key, record["cells"] if args.merge == "missing" else ()))
    return Plan(
        cases=args.cases or select(QUICK if args.quick else SHORT),
        engines=installed(),
        threads=args.threads or sorted(few if args.quick else few | {1}),
        isas=args.isa or [_core.config()["isa"]],
        rounds=args.rounds or rounds,
        turn_seconds=turn_seconds,
        done=done,
    )


def _run(plan: Plan, record: results.Record, path: Path | None) -> None:
    """Measure into a record, which is saved after each cell if a file is named."""
    order = [case.name for case in CASES]
    record["settings"]["turn_seconds"] = plan.turn_seconds

    def save(cell: results.CellRecord) -> None:
        results.put(record, cell, order)
        if path is not None:
            results.save(record, path)

    with bar(plan.steps()) as advance:
        record["versions"] |= measure(plan, advance, save)
    if path is not None:
        results.save(record, path)


def complain(record: results.Record) -> int:
    """Name the engines that computed something else."""
    wrong = [
        f"{name} on {cell['case']}: error {engine['error']:.1e}"
        for cell in record["cells"]
        for name, engine in cell["engines"].items()
        if not engine["error"] <= LARGEST_ERROR[cell["dtype"]]  # NaN too
    ]
    for line in wrong:
        print(f"WRONG RESULT: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _positive_list(text: str) -> list[int]:
    return [_positive(word) for word in text.split(",")]


def _cases(text: str) -> list[Case]:
    try:
        return select(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _isas(text: str) -> list[str]:
    known = cpuattn.isas()
    for name in text.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return text.split(",")
