"""The benchmark: pure Python, NumPy, cpuattn and installed peers, timed in one interleaved run.

``python -m cpuattn bench`` prints a table and saves JSON and a plot; ``benchmarks/`` makes the
tables of the documentation from such a JSON.

Where to start reading: `measure.py` is the run, `cases.py` what is computed, `engines/` who
computes it. Each engine lives in a process of its own (`worker.py`, seen from outside in
`process.py`), and all but the one that is timed are stopped.
"""

import importlib
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : sequence of str
        The words after ``bench``.

    Returns
    -------
    int
        The exit status: 0; 1 if an engine's result is wrong; 2 if it cannot be run as asked.

    Raises
    ------
    ModuleNotFoundError
        If a package of the ``[bench]`` extra that the request needs is missing.
    """
    # A worker imports this package too, and must not load what only the command needs.
    status: int = importlib.import_module("cpuattn.bench.command").main(argv)
    return status
