"""What the benchmark computes: shapes, options, exact results and amounts of work."""

import numpy as np
import pytest

import cpuattn
from bench_small import shrink
from cpuattn.bench.case import Case
from cpuattn.bench.cases import CASES, QUICK, SHORT, select
from cpuattn.bench.exact import exact
from cpuattn.bench.work import flops, moved_bytes
from scripts import run_python

SMALL = (
    Case("plain", 1, 3, 3, 5, 5, 8),
    Case("causal", 1, 2, 2, 9, 9, 8, causal=True),
    Case("later queries", 1, 2, 2, 3, 9, 8, causal=True),
    Case("window", 1, 2, 2, 9, 9, 8, window=(3, 0)),
    Case("grouped", 2, 4, 2, 5, 7, 8, causal=True),
    Case("ragged", 2, 4, 2, 5, 7, 8, key_lengths=(7, 2)),
    Case("ragged, as a mask", 2, 4, 2, 5, 7, 8, key_lengths=(7, 2), padding_mask=True),
    Case("packed", 2, 2, 1, 7, 7, 8, documents=(4, 3)),
    Case("biased", 2, 2, 1, 4, 7, 8, bias=True, alibi=True, causal=True),
    Case("capped", 1, 4, 2, 4, 7, 8, value_dim=5, softcap=2.0, sinks=True, causal=True),
    Case("views", 2, 4, 2, 4, 6, 8, head_views=True),
    Case("double", 1, 2, 1, 4, 6, 8, dtype="float64", sets=3),
)


def by_name(case: Case) -> str:
    return case.name


def small(name: str) -> Case:
    return next(case for case in SMALL if case.name == name)


@pytest.mark.parametrize("case", [*SMALL, *map(shrink, CASES)], ids=by_name)
def test_exact_is_what_the_options_mean(case: Case) -> None:
    # The masks of the exact result against cpuattn's own options, in float64.
    query, key, value = (x.astype(np.float64) for x in case.inputs()[0])
    expected = cpuattn.attention(query, key, value, **case.options())
    assert expected.shape == case.output().shape
    np.testing.assert_allclose(exact(case), expected, rtol=1e-11, atol=1e-13)


def test_sets_and_layouts_of_inputs() -> None:
    query, key, value = small("double").inputs()[2]
    assert [x.dtype for x in (query, key, value)] == [np.float64] * 3
    assert len({float(key.sum()) for _, key, _ in small("double").inputs()}) == 3
    views = small("views")
    for array in (*views.inputs()[0], views.output()):
        assert array.swapaxes(1, 2).flags.c_contiguous
        assert not array.flags.c_contiguous
    assert small("capped").inputs()[0][2].shape == (1, 2, 7, 5)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        *(("plain", 25), ("causal", 45), ("later queries", 24), ("window", 30)),
        *(("ragged", 5 * 9), ("ragged, as a mask", 5 * 9), ("packed", 2 * (16 + 9))),
    ],
)
def test_hidden_pairs_are_no_work(name: str, pairs: int) -> None:
    case = small(name)
    assert flops(case) == 4 * pairs * case.heads * case.head_dim


def test_values_of_another_width_are_other_work() -> None:
    pairs = 4 + 5 + 6 + 7
    assert flops(small("capped")) == 2 * pairs * 4 * (8 + 5)
    assert moved_bytes(small("capped")) == (7 * 2 + 4 * 4) * (8 + 5) * 4


def test_hidden_keys_are_not_read() -> None:
    assert moved_bytes(small("ragged")) == ((7 + 2) * 2 + 2 * 5 * 4) * (8 + 8) * 4
    assert moved_bytes(small("grouped")) == (2 * 7 * 2 + 2 * 5 * 4) * (8 + 8) * 4
    assert moved_bytes(small("double")) == (6 * 1 + 4 * 2) * (8 + 8) * 8


def test_titles() -> None:
    assert small("ragged, as a mask").title() == "2 × 4/2 × 5 over 7 × 8, 2 to 7 keys, bool mask"
    assert small("capped").title() == "1 × 4/2 × 4 over 7 × 8/5, softcap 2, causal, sinks"
    assert small("double").title() == "1 × 2/1 × 4 over 6 × 8, float64"


def test_processes_agree_on_the_inputs() -> None:
    script = (
        "from cpuattn.bench.cases import CASES\n"
        "print(sum(float(x.sum()) for x in CASES[0].inputs()[0]))"
    )
    assert float(run_python("-c", script)) == sum(float(x.sum()) for x in CASES[0].inputs()[0])


def test_cases_are_chosen_by_patterns() -> None:
    assert [case.name for case in select(["decode-4096", "tiny-?"])] == [
        "tiny-1",
        "tiny-8",
        "decode-4096",
    ]
    assert len(select(QUICK)) == len(QUICK)
    assert len(select(SHORT)) == len(SHORT)
    assert len(select("*")) == len(CASES) == len({case.name for case in CASES})
    with pytest.raises(ValueError, match="no case is called 'tiny'; there are tiny-1, "):
        select(["tiny"])
