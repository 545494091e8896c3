"""Make the documentation's tables and pictures from a run: python benchmarks/report.py [OPTIONS].

Writes the tables of README.md and docs/performance.md between their two markers, docs/benchmarks.md
with every cell, and three pictures beside it. With --check nothing is written; the exit status
tells whether all is fresh.
"""

import argparse
import sys
from pathlib import Path

import bars
import lines
import page
import readme
import regimes

from cpuattn.bench.results import Record, load

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- benchmark:begin -->\n"
END = "<!-- benchmark:end -->"


def insert(text: str, table: str) -> str:
    """Put a table between the markers of a page.

    Raises
    ------
    ValueError
        If the page does not have each marker once, in this order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"needs one line {BEGIN.strip()} and, after it, one {END}")
    return f"{before}{BEGIN}{table}\n{END}{after}"


def pages(record: Record, root: Path) -> dict[Path, str]:
    """Make the text of every file below the root that shows a run."""
    docs, pictures = root / "docs", root / "docs" / "pictures"
    tables = {root / "README.md": readme.text, docs / "performance.md": regimes.text}
    return {path: _with_table(path, text(record)) for path, text in tables.items()} | {
        docs / "benchmarks.md": page.text(record),
        pictures / "benchmark-share.svg": bars.share(record),
        pictures / "benchmark-time.svg": lines.time(record),
        pictures / "benchmark-memory.svg": lines.memory(record),
    }


def _with_table(path: Path, table: str) -> str:
    try:
        return insert(_read(path), table)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description="Make the documentation's benchmark tables.")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument("--root", type=Path, default=ROOT, help="where README.md and docs/ are")
    parser.add_argument("--check", action="store_true", help="only compare; 1 if one is stale")
    args = parser.parse_args()
    try:
        texts = pages(load(args.json), args.root)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stale = [path for path, text in texts.items() if not path.exists() or _read(path) != text]
    for path in stale:
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[path], encoding="utf-8")
        print(f"{'stale' if args.check else 'wrote'}: {path.relative_to(args.root)}")
    return 1 if args.check and stale else 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
