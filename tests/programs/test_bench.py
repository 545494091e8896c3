"""The benchmark measures what it says. No time is asserted."""

import dataclasses
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpuattn
from bench_record import make_record
from cpuattn.bench import command, measure, peak, process
from cpuattn.bench.cases import CASES, select
from cpuattn.bench.engines import ENGINES, why_not
from cpuattn.bench.measure import Round, is_enough, quietest
from cpuattn.bench.peak import fma_peak, read_peak
from cpuattn.bench.process import BenchError, EngineError, EngineProcess, environment
from cpuattn.bench.results import CellRecord, EngineRecord, Record, load, new_cell, save
from scripts import run_python

pytest.importorskip("threadpoolctl")

MIB = 2**20
# Linux adds up the pages of a process in batches, one for each CPU.
INEXACT = MIB


def added_bytes(expression: str, times: int = 1, before: str = "") -> list[int]:
    """Give the bytes that evaluating the expression adds, in a process that does nothing else.

    Skips where nobody counts them.
    """
    script = f"""
import numpy as np
from cpuattn.bench.memory import call_and_measure
np.ones(8).sum()
{before}
for _ in range({times}):
    print(call_and_measure(lambda: {expression})[1])
"""
    words = run_python("-c", script).split()
    if "None" in words:
        pytest.skip("this system does not say how much memory a call adds")
    return [int(word) for word in words]


def test_memory_of_a_result_is_counted() -> None:
    assert added_bytes(f"np.ones({MIB})") == [pytest.approx(8 * MIB, abs=INEXACT)]


def test_memory_that_is_freed_is_counted() -> None:
    # The second time it may come from what the process has kept.
    counted = added_bytes(f"np.ones({2 * MIB}).sum() + np.ones({MIB}).sum()", times=2)
    assert counted == [pytest.approx(16 * MIB, abs=INEXACT)] * 2


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("threads", [1, 2])
def test_peak_is_a_rate(dtype: str, threads: int) -> None:
    # At least a hundred million operations a second, at most 2 TFLOP/s of a thread.
    assert 0.1 < fma_peak(dtype, threads, 0.01) < 2000 * threads


@pytest.mark.parametrize("threads", [1, 2])
def test_reads_are_a_rate(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_far_larger_than_caches", lambda: np.ones(1 << 20, np.float32))
    assert 0.1 < read_peak(threads, 0.01) < 2000 * threads


def test_memory_for_results_counts_when_it_is_written() -> None:
    room = "untouched((2, 1 << 18), 'float32')"
    script = f"from cpuattn.bench.memory import untouched; room = {room}"
    assert added_bytes("room.fill(1)", before=script) == [pytest.approx(2 * MIB, abs=INEXACT)]


def test_noisy_rounds_are_measured_again() -> None:
    peaks = [100.0, 50.0, 105.0, 98.0, 94.0]
    rounds = [Round({"cpuattn": n}, peak, 20.0) for n, peak in enumerate(peaks)]
    assert [is_enough(rounds[:n], 3) for n in range(6)] == [False] * 4 + [True] * 2
    assert not is_enough(rounds[:2], 2)
    assert is_enough([rounds[0], *rounds[1:2] * 3], 2)  # the machine is noisy, whatever one does
    assert [each.seconds["cpuattn"] for each in quietest(rounds, 3)] == [0, 2, 3]


class _Broken(EngineProcess):
    """An engine that fails, without a process."""

    def __init__(self) -> None:
        self.engine = "NumPy"

    def ask(self, command: str, **_fields: Any) -> Any:
        raise EngineError(self.engine, f"TypeError: cannot {command}")


def test_engine_that_fails_is_left_out_with_the_reason() -> None:
    case = CASES[0]
    cell = new_cell(case, cpuattn.isas()[0], 1)
    measure._prepare({"NumPy": _Broken()}, case, cell, np.zeros(1))
    assert cell["left_out"]["NumPy"] == "failed: TypeError: cannot prepare"
    assert cell["engines"] == {}
    with pytest.raises(EngineError, match="cannot prepare"):
        measure._prepare({"cpuattn": _Broken()}, case, cell, np.zeros(1))


@pytest.mark.parametrize(("best", "held"), [("avx512", "Haswell"), ("avx2", None)])
def test_environment_of_the_engines(
    best: str, held: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpuattn, "isas", lambda: (best,))
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    monkeypatch.setenv("CPUATTN_ISA", "another")
    monkeypatch.setenv("KEPT", "yes")
    for isa, core in (("avx512", None), ("scalar", None), ("avx2", held)):
        found = environment(isa)
        assert found.get("OPENBLAS_CORETYPE") == core
        assert "OPENBLAS_L2_SIZE" not in found
        assert found["CPUATTN_ISA"] == isa
        assert found["KEPT"] == "yes"


def test_engine_that_fails_is_named() -> None:
    case = dataclasses.asdict(dataclasses.replace(CASES[0], key_lengths=(1, 2, 3)))
    with EngineProcess("cpuattn", cpuattn.isas()[0]) as engine:
        engine.ask("prepare", case=case, threads=1)
        with pytest.raises(BenchError, match=r"^cpuattn: ValueError: key_lengths"):
            engine.ask("check", path="never written")
        assert "cpuattn" in engine.ask("versions")  # it lives on
        engine._process.kill()
        with pytest.raises(BenchError, match=r"^cpuattn: its process ended with -9"):
            engine.ask("versions")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, str, Path]:
    """Run the command on small cases; give the record, what was printed, and the folder."""
    folder = tmp_path_factory.mktemp("bench")
    outputs = f"--json={folder / 'a.json'}", f"--plot={folder / 'a.png'}"
    choice = "--quick", "--rounds=2", "--threads=1,2", "--cases=tiny-1,tiny-8,one-head"
    spoiled = {"OPENBLAS_CORETYPE": "Prescott"}
    text = run_python("-m", "cpuattn", "bench", *choice, *outputs, environment=spoiled, seconds=110)
    return load(folder / "a.json"), text, folder


def test_record_is_complete(run: tuple[Record, str, Path]) -> None:
    record, _, _ = run
    cells = [(cell["case"], cell["threads"]) for cell in record["cells"]]
    assert cells == [(name, n) for name in ("tiny-1", "tiny-8", "one-head") for n in (1, 2)]
    assert "OPENBLAS_CORETYPE" in str(record["settings"]["removed_variables"])
    assert record["versions"]["cpuattn"] == cpuattn.__version__
    assert record["versions"]["NumPy"] == np.__version__
    assert "Prescott" not in record["versions"]["NumPy's BLAS"]
    assert record["machine"]["cpu"]
    for cell in record["cells"]:
        assert CellRecord.__required_keys__ == cell.keys()
        case = select([cell["case"]])[0]
        reasons = {name: why_not(name, case, cell["isa"]) for name in ENGINES}
        assert list(cell["engines"]) == [name for name in ENGINES if reasons[name] is None]
        assert cell["left_out"] == {name: why for name, why in reasons.items() if why is not None}
        assert len(cell["peak_gflops"]) == len(cell["read_gbytes"]) == 2
        assert 0 <= cell["repeated_rounds"] <= 2
        assert cell["isa"] in cpuattn.isas()
        for engine in cell["engines"].values():
            assert EngineRecord.__required_keys__ == engine.keys()
            assert len(engine["seconds"]) == 2
            assert min(engine["seconds"]) > 0
            assert 0 < engine["error"] < 1e-6


def test_table_has_every_engine(run: tuple[Record, str, Path]) -> None:
    record, text, _ = run
    assert re.search("^OPENBLAS_CORETYPE.* would give NumPy other kernels", text, re.MULTILINE)
    for name in ENGINES:
        lines = [line for line in text.splitlines() if line.startswith(f"  {name}  ")]
        assert len(lines) == sum(name in cell["engines"] for cell in record["cells"])
    isa = record["cells"][0]["isa"]
    assert f"limits, lowest to highest round: {isa} float32 1 thread, GFLOP/s " in text
    assert re.search(r"; reads 2 threads, GB/s \d+ to \d+; ", text)


def test_run_goes_on_with_what_is_missing(run: tuple[Record, str, Path]) -> None:
    record, _, folder = run
    outputs = f"--json={folder / 'a.json'}", f"--plot={folder / 'b.png'}"
    choice = "--quick", "--rounds=1", "--threads=1,2", "--cases=tiny-1,one-head"
    run_python("-m", "cpuattn", "bench", "--merge=missing", *choice, *outputs, seconds=30)
    merged = load(folder / "a.json")
    assert merged["cells"] == record["cells"]
    assert merged["versions"] == record["versions"]


def test_other_machine_is_not_merged(
    record_elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--merge=all", "--json", str(record_elsewhere), "--cases=tiny-1"]) == 2
    assert "was measured on another machine" in capsys.readouterr().err


@pytest.fixture
def record_elsewhere(tmp_path: Path) -> Path:
    """Save a run of a machine that nobody has."""
    save(make_record(), tmp_path / "a.json")
    return tmp_path / "a.json"


def test_plot_is_a_picture(run: tuple[Record, str, Path]) -> None:
    picture = (run[2] / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cases", "nothing"], "no case is called 'nothing'"),
        (["--threads", "1,0"], "'0' is not a positive integer"),
        (["--rounds", "-1"], "'-1' is not a positive integer"),
        (["--isa", "sse"], "'sse' is none of"),
        (["--json", "no/such/folder.json"], "cannot write no/such/folder.json: No such file"),
        (["--merge", "all"], "--merge needs --json"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert complaint in capsys.readouterr().err


def test_picture_of_no_format_is_said_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--quick", "--plot", str(tmp_path / "a.docx")]) == 2
    assert "--plot: a.docx must end in one of ." in capsys.readouterr().err


def test_an_engine_ends_with_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenVINO does, an engine may start processes that outlive it."""
    starts = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {!r}]).pid)"
    sleeps = "import time; time.sleep(100)"
    program = f"{starts.format(sleeps)}; sys.stdout.flush(); {sleeps}"
    monkeypatch.setattr(process, "python_child", lambda _: [sys.executable, "-c", program])
    with EngineProcess("cpuattn", cpuattn.isas()[0]) as engine:
        assert engine._process.stdout is not None
        child = Path("/proc") / engine._process.stdout.readline().strip()
        assert child.exists()
    end = time.monotonic() + 30
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < end
        time.sleep(0.01)
