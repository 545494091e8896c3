"""The benchmark measures what it says. No time is asserted."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import cpuattn
from cpuattn.bench import command
from cpuattn.bench.cases import CASES
from cpuattn.bench.engines import installed
from cpuattn.bench.peak import fma_peak
from cpuattn.bench.process import BenchError, EngineProcess, environment
from cpuattn.bench.results import CellRecord, EngineRecord, Record, load
from scripts import run_python

pytest.importorskip("threadpoolctl")

MIB = 2**20
# Linux adds up the pages of a process in batches, one for each CPU.
INEXACT = MIB


def added_bytes(expression: str, times: int = 1) -> list[int]:
    """Give the bytes that evaluating the expression adds, in a process that does nothing else.

    Skips where nobody counts them.
    """
    script = f"""
import numpy as np
from cpuattn.bench.memory import call_and_measure
np.ones(8).sum()
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_peak_is_a_rate(dtype: str, threads: int) -> None:
    # At least a hundred million operations a second, at most 2 TFLOP/s of a thread.
    assert 0.1 < fma_peak(dtype, threads, 0.01) < 2000 * threads


def test_environment_of_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    monkeypatch.setenv("CPUATTN_ISA", "another")
    monkeypatch.setenv("KEPT", "yes")
    for isa, core in (("avx512", None), ("scalar", None), ("avx2", "Haswell")):
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
    choice = "--quick", "--rounds=2", "--threads=1,2", "--cases=tiny-*,one-head"
    spoiled = {"OPENBLAS_CORETYPE": "Prescott"}
    text = run_python("-m", "cpuattn", "bench", *choice, *outputs, environment=spoiled, seconds=110)
    return load(folder / "a.json"), text, folder


def test_record_is_complete(run: tuple[Record, str, Path]) -> None:
    record, _, _ = run
    cells = [(cell["case"], cell["threads"]) for cell in record["cells"]]
    assert cells == [(name, n) for name in ("tiny-1", "tiny-8", "one-head") for n in (1, 2)]
    assert record["settings"]["rounds"] == 2
    assert "OPENBLAS_CORETYPE" in str(record["settings"]["removed_variables"])
    assert record["versions"]["cpuattn"] == cpuattn.__version__
    assert record["versions"]["NumPy"] == np.__version__
    assert "Prescott" not in record["versions"]["NumPy's BLAS"]
    assert record["machine"]["cpu"]
    for cell in record["cells"]:
        assert CellRecord.__required_keys__ == cell.keys()
        assert list(cell["engines"]) == installed()
        assert len(cell["peak_gflops"]) == 2
        assert cell["isa"] in cpuattn.isas()
        for engine in cell["engines"].values():
            assert EngineRecord.__required_keys__ == engine.keys()
            assert len(engine["seconds"]) == 2
            assert min(engine["seconds"]) > 0
            assert 0 < engine["error"] < 1e-6


def test_table_has_every_engine(run: tuple[Record, str, Path]) -> None:
    record, text, _ = run
    assert re.search("^OPENBLAS_CORETYPE.* would give NumPy other kernels", text, re.MULTILINE)
    for name in installed():
        lines = [line for line in text.splitlines() if line.startswith(f"  {name}  ")]
        assert len(lines) == len(record["cells"])
    assert f"GFLOP/s, lowest to highest round: {record['cells'][0]['isa']} float32 1 thread" in text


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
        (["--json", "no/such/folder.json"], "is no directory"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert complaint in capsys.readouterr().err
