"""Measure everything that the documentation shows: python benchmarks/run.py [OPTIONS].

Writes benchmarks/results.json, from which report.py makes tables and pictures. OPTIONS are those
of ``python -m cpuattn bench`` and come after the ones that are set here.
"""

import sys
from pathlib import Path

from cpuattn import bench

FOLDER = Path(__file__).parent
# More rounds than by default: these figures stay for longer.
OPTIONS = ["--rounds", "15", "--json", str(FOLDER / "results.json")]

if __name__ == "__main__":
    sys.exit(bench.main([*OPTIONS, *sys.argv[1:]]))
