"""Make the documentation's tables and pictures from a run: python benchmarks/report.py [OPTIONS].

Writes the tables of README.md and docs/performance.md between their markers, docs/benchmarks.md
with every cell, and three pictures beside it. The second table of docs/performance.md shows
what in_turn.py measured, if in_turn.json lies beside the run. With --check nothing is written; the
exit status tells whether all is fresh.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import bars
import in_turn
import lines
import page
import readme
import regimes

from cpuattn.bench.results import Record, load

ROOT = Path(__file__).resolve().parents[1]


def insert(text: str, table: str, name: str = "benchmark") -> str:
    """Put a table between the markers of a page that have this name.

    Raises
    ------
    ValueError
        If the page does not have each marker once, in this order.
    """
    first, last = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or first in rest or last in after:
        raise ValueError(f"needs one line {first.strip()} and, after it, one {last}")
    return f"{before}{first}{table}\n{last}{after}"


def pages(record: Record, turns: dict[str, Any] | None, root: Path) -> dict[Path, str]:
    """Make the text of every file below the root that shows a run."""
    docs, pictures = root / "docs", root / "docs" / "pictures"
    tables = {
        root / "README.md": {"benchmark": readme.text(record)},
        docs / "performance.md": {"benchmark": regimes.text(record)},
    }
    if turns:
        tables[docs / "performance.md"]["in-turn"] = in_turn.text(turns)
    return {path: _with_tables(path, found) for path, found in tables.items()} | {
        docs / "benchmarks.md": page.text(record),
        pictures / "benchmark-share.svg": bars.share(record),
        pictures / "benchmark-time.svg": lines.time(record),
        pictures / "benchmark-memory.svg": lines.memory(record),
    }


def _with_tables(path: Path, tables: dict[str, str]) -> str:
    text = _read(path)
    try:
        for name, table in tables.items():
            text = insert(text, table, name)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    return text


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description="Make the documentation's benchmark tables.")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument("--root", type=Path, default=ROOT, help="where README.md and docs/ are")
    parser.add_argument("--check", action="store_true", help="only compare; 1 if one is stale")
    args = parser.parse_args()
    try:
        texts = pages(load(args.json), in_turn.load(args.json.parent), args.root)
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
