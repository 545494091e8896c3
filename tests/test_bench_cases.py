"""What the benchmark computes, and that every engine computes the same."""

import numpy as np
import pytest

import cpuattn
from cpuattn.bench.cases import CASES, QUICK, Case, select
from cpuattn.bench.engines import ENGINES, installed, takes
from scripts import run_python

threadpoolctl = pytest.importorskip("threadpoolctl")

SMALL = (
    Case("plain", 1, 3, 3, 5, 5, 8),
    Case("causal", 1, 2, 2, 9, 9, 8, causal=True),
    Case("later queries", 1, 2, 2, 3, 9, 8, causal=True),
    Case("window", 1, 2, 2, 9, 9, 8, window=(3, 0)),
    Case("grouped", 2, 4, 2, 5, 7, 8, causal=True),
    Case("ragged", 2, 4, 2, 5, 7, 8, key_lengths=(7, 2)),
    Case("double", 1, 2, 1, 4, 6, 8, dtype="float64", sets=3),
)


def by_name(case: Case) -> str:
    return case.name


TAKEN = [(engine, case) for engine in ENGINES for case in SMALL if takes(engine, case)]


def test_pure_python_takes_part_where_it_can() -> None:
    assert [case.name for engine, case in TAKEN if engine == "pure Python"] == ["plain"]


@pytest.mark.parametrize(("engine", "case"), TAKEN)
def test_engine_computes_the_case(engine: str, case: Case) -> None:
    if engine not in installed():
        pytest.skip(f"{engine} is not installed")
    with threadpoolctl.threadpool_limits():  # what the engine sets ends here
        calls = ENGINES[engine].prepare(case, 1)
        results = [np.asarray(call()) for call in calls]
    assert len(results) == case.sets
    limit = 1e-6 if case.dtype == "float32" else 1e-14
    assert np.linalg.norm(results[0] - case.exact()) < limit * np.linalg.norm(case.exact())
    for other in results[1:]:
        assert not np.allclose(other, results[0])


@pytest.mark.parametrize("case", SMALL, ids=by_name)
def test_exact_is_what_the_options_mean(case: Case) -> None:
    # The mask of the exact result against cpuattn's own options, in float64.
    query, key, value = (x.astype(np.float64) for x in case.inputs()[0])
    expected = cpuattn.attention(query, key, value, **case.options())
    np.testing.assert_allclose(case.exact(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [("plain", 25), ("causal", 45), ("later queries", 24), ("window", 30), ("ragged", 5 * 9)],
)
def test_hidden_pairs_are_no_work(name: str, pairs: int) -> None:
    case = next(case for case in SMALL if case.name == name)
    assert case.flops() == 4 * pairs * case.heads * case.head_dim


def test_processes_agree_on_the_inputs() -> None:
    script = (
        "from cpuattn.bench.cases import CASES\n"
        "print(sum(float(x.sum()) for x in CASES[0].inputs()[0]))"
    )
    assert float(run_python("-c", script)) == sum(float(x.sum()) for x in CASES[0].inputs()[0])


def test_cases_are_chosen_by_patterns() -> None:
    assert [case.name for case in select(["decode*", "tiny-?"])] == [
        "tiny-1",
        "tiny-8",
        "decode-4096",
    ]
    assert len(select(QUICK)) == len(QUICK)
    assert len(select("*")) == len(CASES) == len({case.name for case in CASES})
    with pytest.raises(ValueError, match="no case is called 'tiny'; there are tiny-1, "):
        select(["tiny"])
