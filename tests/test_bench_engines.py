"""Every engine of the benchmark computes every case, or says why not."""

import json
from pathlib import Path

import pytest

from bench_small import shrink
from cpuattn.bench.case import Case
from cpuattn.bench.cases import CASES, select
from cpuattn.bench.engines import ENGINES, installed, why_not
from scripts import run_python

pytest.importorskip("threadpoolctl")

SCRIPT = str(Path(__file__).with_name("bench_small.py"))
LIMITS = {"float32": 2e-6, "float64": 1e-14}


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_computes_the_cases(engine: str) -> None:
    if engine not in installed():
        pytest.skip(f"{engine} is not installed")
    found = json.loads(run_python(SCRIPT, engine, seconds=110).splitlines()[-1])
    assert list(found) == [case.name for case in CASES]
    for case in CASES:
        if isinstance(found[case.name], list):
            assert len(found[case.name]) == case.sets
            assert max(found[case.name]) < LIMITS[case.dtype], case.name
    if engine in ("NumPy", "cpuattn"):
        assert not any(isinstance(errors, str) for errors in found.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_small_cases_ask_for_the_same(case: Case) -> None:
    small = shrink(case)
    assert small.asks() == case.asks()
    assert small.queries * small.keys <= 8 * 2048
    refusals = [(engine.refuses(small), engine.refuses(case)) for engine in ENGINES.values()]
    assert all(a == b for a, b in refusals[1:])  # pure Python takes small ones


@pytest.mark.parametrize(
    ("engine", "case", "reason"),
    [
        ("pure Python", "prefill-512", "only in tiny cases without options"),
        ("torch", "softcap", "no softcap"),
        ("torch", "sinks", "no sinks"),
        ("JAX", "mla", "values must be as wide as keys"),
        ("ORT MHA", "gqa-1024", "no grouped heads"),
        ("ORT GQA", "prefill-512", "always causal"),
        ("OpenVINO", "prefill-double", "computes float64 in float32"),
        ("OpenVINO stateful", "causal-1024", "only in decode over a long cache"),
    ],
)
def test_reasons(engine: str, case: str, reason: str) -> None:
    assert ENGINES[engine].refuses(select([case])[0]) == reason


def test_engines_that_are_missing_or_cannot_be_narrowed_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = select(["prefill-512"])[0]
    monkeypatch.setattr("cpuattn.isas", lambda: ("avx512", "avx2"))
    monkeypatch.setattr("cpuattn.bench.engines.installed", lambda: ["ORT Attention"])
    assert why_not("torch", case, "avx512") == "not installed"
    assert why_not("ORT Attention", case, "avx512") is None
    assert why_not("ORT Attention", case, "avx2") == "cannot be held to AVX2"
    monkeypatch.setattr("cpuattn.isas", lambda: ("avx2",))  # all this CPU can do
    assert why_not("ORT Attention", case, "avx2") is None
