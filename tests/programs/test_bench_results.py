"""Tables follow from the measurements of a run, and the documentation shows one."""

import dataclasses
import importlib
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from bench_record import MIB, make_record
from cpuattn.bench import command, table
from cpuattn.bench.cases import CASES, select
from cpuattn.bench.results import (
    CellRecord,
    EngineRecord,
    Record,
    best_peer,
    geometric_mean,
    key,
    load,
    new_cell,
    put,
    rows,
    save,
)
from scripts import start_python

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- benchmark:begin -->\n", "\n<!-- benchmark:end -->"
PAGE = f"# Title\n\n{BEGIN}old{END}\n\nlast line\n"


@pytest.fixture
def record() -> Record:
    return make_record()


def test_rows_follow_from_the_measurements(record: Record) -> None:
    numpy, torch, us = rows(record["cells"][0])
    assert [row.engine for row in (numpy, torch, us)] == ["NumPy", "torch", "cpuattn"]
    assert us.is_us
    assert not torch.is_us
    assert us.seconds == statistics.median([0.025, 0.024, 0.040]) == 0.025
    assert [row.ratio for row in (numpy, torch, us)] == pytest.approx([4, 2, 1])
    assert best_peer([numpy, torch, us]) == torch
    assert best_peer([us]) is None
    gflops = 4 * 8 * 1024 * 1024 * 64 / 0.025 / 1e9
    assert us.gflops == pytest.approx(gflops)
    assert us.share == pytest.approx(gflops / 100)
    assert torch.spread == 0
    assert us.spread == pytest.approx((32.5 - 24.5) / 2 / 25)


def test_limit_of_decode_is_reading(record: Record) -> None:
    us = rows(record["cells"][2])[-1]
    moved = 2 * 4096 * 8 * 128 + 2 * 32 * 128
    assert us.share == pytest.approx(moved * 4 / 20e9 / 0.002)


def test_geometric_mean() -> None:
    assert geometric_mean([2, 0.5, 8]) == pytest.approx(2)


def test_cells_are_put_in_order_in_place_of_older_ones(record: Record) -> None:
    case, order = select(["causal-1024"])[0], [case.name for case in CASES]
    there = [key(cell) for cell in record["cells"]]
    put(record, new_cell(case, "avx2", 1), order)
    put(record, new_cell(case, "scalar", 1), order)
    again = new_cell(select(["prefill-1024"])[0], "avx2", 2)
    put(record, again, order)
    assert [key(cell) for cell in record["cells"]] == [
        *there[:2],
        ("causal-1024", "avx2", 1),
        *there[2:],
        ("causal-1024", "scalar", 1),
    ]
    assert record["cells"][1] == again


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.01234, "0.0123"), (1, "1.00"), (9.999, "10.0"), (123.4, "123"), (999.6, "1000")],
)
def test_three_digits(number: float, text: str) -> None:
    assert table.digits(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.50 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 µs")]
)
def test_duration(seconds: float, text: str) -> None:
    assert table.duration(seconds) == text


def test_saved_record_is_the_same(record: Record, tmp_path: Path) -> None:
    save(record, tmp_path / "a.json")
    assert load(tmp_path / "a.json") == record


@pytest.mark.parametrize("content", [{"schema": 1}, {}, []])
def test_other_json_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a\.json has schema .*; this benchmark reads schema 2"):
        load(tmp_path / "a.json")


@pytest.mark.parametrize("error", [1e-3, math.nan, math.inf])
def test_wrong_result_is_told(
    error: float, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.complain(record) == 0
    record["cells"][2]["engines"]["torch"]["error"] = error
    assert command.complain(record) == 1
    assert "WRONG RESULT: torch on decode-4096" in capsys.readouterr().err


def report(*arguments: str | Path) -> tuple[int, str]:
    """Run report.py; give its exit status and all that it printed."""
    script = ROOT / "benchmarks" / "report.py"
    process = start_python(str(script), *map(str, arguments))
    return process.returncode, process.stdout + process.stderr


@pytest.fixture
def site(record: Record, tmp_path: Path) -> Path:
    """Make a folder with a run and the pages that shall show it."""
    save(record, tmp_path / "a.json")
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/performance.md"):
        (tmp_path / page).write_text(PAGE)
    return tmp_path


def test_report_writes_what_it_then_finds_fresh(site: Path) -> None:
    arguments = "--json", site / "a.json", "--root", site
    assert report(*arguments, "--check")[0] == 1
    assert (site / "README.md").read_text() == PAGE
    status, text = report(*arguments)
    assert status == 0
    assert text.count("wrote: ") == 6
    assert report(*arguments, "--check") == (0, "")
    assert report(*arguments) == (0, "")
    (site / "docs" / "benchmarks.md").write_text("typed by hand")
    assert report(*arguments, "--check") == (1, "stale: docs/benchmarks.md\n")


def test_readme_table(site: Path) -> None:
    report("--json", site / "a.json", "--root", site)
    before, _, rest = (site / "README.md").read_text().partition(BEGIN)
    shown, _, after = rest.partition(END)
    assert (before, after) == ("# Title\n\n", "\n\nlast line\n")
    header, rule, prefill, decode, blank, caption = shown.splitlines()
    assert header.count("|") == 7  # six columns
    assert header.count("|") == rule.count("|") == prefill.count("|") == decode.count("|")
    fields = [field.strip() for field in prefill.strip("|").split("|")]
    assert fields == [
        *("prefill", "1 × 8 × 1024 × 64", "torch 30.0 ms", "**12.0 ms**"),
        *("2.50", "2.0e-07 / 3.0e-07"),
    ]
    assert blank == ""
    assert "2 threads of Abacus 9 (2 CPUs, 4 GiB, Linux x86_64), avx2" in caption
    assert "; NumPy 2.0, torch 3.0, cpuattn 0.1; medians of 3 interleaved rounds." in caption
    assert "fastest in 3 of 4 cells" in caption
    assert "It loses in decode-4096 on 1 thread (0.750, torch). " in caption
    mean = (2 * 2.5 * 0.75 * 2) ** (1 / 4)
    assert f"{table.digits(mean)} times as fast as the best peer" in caption


def test_table_of_regimes(site: Path, record: Record) -> None:
    report("--json", site / "a.json", "--root", site)
    _, _, rest = (site / "docs" / "performance.md").read_text().partition(BEGIN)
    shown, _, _ = rest.partition(END)
    header, _, prefill, decode = shown.splitlines()
    assert header.endswith("| % of limit, 1 thread | % of limit, 2 threads |")
    assert prefill.startswith("| long prefill | exponentials")
    assert prefill.endswith(" | 86 | 89 |")
    one, two = (round(100 * rows(record["cells"][n])[-1].share) for n in (2, 3))
    assert decode.startswith("| decode, grouped heads | reads from memory")
    assert decode.endswith(f" | {one} | {two} |")


def narrow_cell(name: str, seconds: float, like: CellRecord) -> CellRecord:
    """Make a cell in which cpuattn and torch, three times as slow, ran."""
    cell = new_cell(select([name])[0], "avx2", 2)
    cell |= {"peak_gflops": like["peak_gflops"], "read_gbytes": like["read_gbytes"]}
    for engine, times in (("torch", [3 * seconds]), ("cpuattn", [seconds])):
        cell["engines"][engine] = EngineRecord(seconds=times, error=1e-3, extra_bytes=MIB)
    return cell


def test_table_of_dtypes_and_caches(site: Path, record: Record) -> None:
    like = record["cells"][3]  # decode-4096, 2 threads, 2 ms
    for name, seconds in (
        ("decode-4096-bf16", 0.00125),
        ("decode-4096-int8", 0.001),
        ("decode-4096-paged-16", 0.0025),
        ("decode-32768-fp16", 0.01),
    ):
        record["cells"].append(narrow_cell(name, seconds, like))
    save(record, site / "a.json")
    assert report("--json", site / "a.json", "--root", site)[0] == 0
    _, _, rest = (site / "docs" / "performance.md").read_text().partition(BEGIN)
    regimes, caption, shown = rest.partition(END)[0].split("\n\n")
    assert "| decode in int8 |" in regimes
    assert "The limit of multiply-adds is the one of float32" in caption
    assert shown.splitlines() == [
        "| case | compared with | ×, 1 thread | ×, 2 threads |",
        "| :-- | :-- | --: | --: |",
        "| decode-4096-bf16 | decode-4096 | - | 1.60 |",
        "| decode-4096-bf16 | the best peer | - | 3.00 |",
        "| decode-4096-int8 | decode-4096-bf16 | - | 1.25 |",
        "| decode-4096-int8 | the best peer | - | 3.00 |",
        "| decode-32768-fp16 | the best peer | - | 3.00 |",
        "| decode-4096-paged-16 | decode-4096 | - | 0.800 |",
    ]
    readme = (site / "README.md").read_text()
    assert "| decode, int8 cache |" in readme
    assert "float32 where no other is named, 2 threads of Abacus 9" in readme


def test_packed_sequences_are_compared_by_pairs(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    comparisons = importlib.import_module("comparisons")
    cells = [
        narrow_cell(name, 0.004, record["cells"][3]) for name in ("varlen-batch", "varlen-padded")
    ]
    factor = cells[0]["flops"] / cells[1]["flops"]
    assert 0.5 < factor < 1  # the padded batch has more pairs
    lines = comparisons.comparisons(cells, [2])
    assert lines[0] == ["varlen-batch", "varlen-padded", table.digits(factor)]


def test_compared_cases_are_there_and_differ_in_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    comparisons = importlib.import_module("comparisons")
    for name, others in comparisons.COMPARED.items():
        for other in others:
            if other != comparisons.BEST_PEER:
                one, two = (dataclasses.asdict(select([x])[0]) for x in (name, other))
                differing = {field for field in one if one[field] != two[field]}
                assert len(differing - {"name", "sets"}) == 1


def test_every_case_belongs_to_one_regime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    regimes = importlib.import_module("regimes").REGIMES
    names = [case.name for patterns, _ in regimes.values() for case in select(patterns)]
    assert sorted(names) == sorted(case.name for case in CASES)


def test_page_has_every_cell_and_the_losses(site: Path) -> None:
    report("--json", site / "a.json", "--root", site)
    page = (site / "docs" / "benchmarks.md").read_text()
    assert "- decode-4096, avx2, 1 thread: torch takes 0.750 times the time of cpuattn." in page
    assert page.count("times the time of cpuattn") == 1
    assert page.count("| NumPy |") == page.count("| torch |") == page.count("**cpuattn**") == 4
    assert "## avx2, 1 thread (100 GFLOP/s, 20 GB/s)" in page
    assert "## avx2, 2 threads (200 GFLOP/s, 20 GB/s)" in page
    assert "; 1 of 13 rounds were noisy and measured again" in page
    for picture in ("time", "share", "memory"):
        assert f"(pictures/benchmark-{picture}.svg)" in page
        drawing = (site / "docs" / "pictures" / f"benchmark-{picture}.svg").read_text()
        assert drawing.startswith("<svg")
        assert drawing.endswith("</svg>\n")
        assert "cpuattn" in drawing


def test_page_has_averages_and_who_did_not_run(site: Path) -> None:
    report("--json", site / "a.json", "--root", site)
    page = (site / "docs" / "benchmarks.md").read_text()
    assert "| avx2 | 1 thread | multiply-adds | 1 | 1 | 2.00 | 2.00 |" in page
    assert "| avx2 | 1 thread | reads | 1 | 0 | 0.750 | 0.750 |" in page
    assert f"| avx2 | 2 threads | all | 2 | 2 | {table.digits(math.sqrt(5))} |" in page
    assert "- JAX, not installed: decode-4096.\n" in page
    assert "- OpenVINO, not installed: every case.\n" in page


@pytest.mark.parametrize("page", ["no markers\n", END + BEGIN, PAGE + PAGE])
def test_report_needs_both_markers(page: str, site: Path) -> None:
    (site / "README.md").write_text(page)
    status, text = report("--json", site / "a.json", "--root", site)
    assert status == 2
    assert "README.md needs one line <!-- benchmark:begin -->" in text
    assert (site / "README.md").read_text() == page


def test_run_without_the_cases_of_the_readme(record: Record, site: Path) -> None:
    for cell in record["cells"]:
        cell["case"] = "another"
    save(record, site / "a.json")
    status, text = report("--json", site / "a.json", "--root", site)
    assert (status, text.partition(":")[0]) == (2, "error")
    assert "none of the cases that README.md shows: tiny-8, " in text
    assert (site / "README.md").read_text() == PAGE


def test_documentation_shows_the_stored_run() -> None:
    _, _, rest = (ROOT / "README.md").read_text().partition(BEGIN)
    table_there = rest.startswith("|")
    if not table_there and not (ROOT / "benchmarks" / "results.json").exists():
        pytest.skip("no run is stored, and README.md shows no table")
    assert report("--check") == (0, "")
