"""Measure everything that the documentation shows: python benchmarks/run.py [OPTIONS].

Writes benchmarks/results.json, from which report.py makes tables and pictures, after each cell.
OPTIONS are the ones of ``python -m cpuattn bench`` and come after the ones that are set here:
``--merge missing`` goes on with a run that was ended, ``--merge all --cases NAMES`` measures some
cases anew.
"""

import sys
from pathlib import Path

from cpuattn import bench

FOLDER = Path(__file__).parent
OPTIONS = ["--cases", "*", "--json", str(FOLDER / "results.json")]

if __name__ == "__main__":
    sys.exit(bench.main([*OPTIONS, *sys.argv[1:]]))
