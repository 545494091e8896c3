"""What the benchmark computes: shapes, options, exact results and amounts of work."""

import numpy as np
import pytest

import cpuattn
from bench_small import shrink
from cpuattn.bench.case import Case
from cpuattn.bench.cases import CASES, QUICK, SHORT, select
from cpuattn.bench.dtypes import dequantise, quantise
from cpuattn.bench.engines import own
from cpuattn.bench.exact import distance, exact
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
    Case("half", 1, 4, 2, 4, 6, 8, dtype="float16", bias=True),
    Case("brain", 1, 4, 2, 4, 6, 8, dtype="bfloat16", value_dim=5, sinks=True),
    Case("integers", 2, 4, 2, 1, 6, 8, dtype="int8", value_dim=5, alibi=True),
    Case("pages", 2, 4, 2, 3, 12, 8, page_size=4, causal=True),
    Case("behind each other", 3, 4, 2, 7, 7, 8, key_lengths=(2, 7, 4), packed=True),
)


def by_name(case: Case) -> str:
    return case.name


def small(name: str) -> Case:
    return next(case for case in SMALL if case.name == name)


@pytest.mark.parametrize("case", [*SMALL, *map(shrink, CASES)], ids=by_name)
def test_exact_is_what_the_options_mean(case: Case) -> None:
    # The masks of the exact result against cpuattn's own options, in float64.
    query, key, value = (x.astype(np.float64) for x in case.inputs()[0])
    options = case.options()
    for name in ("bias", "alibi_slopes", "sinks"):  # their bfloat16 is rounded already
        if name in options:
            options[name] = options[name].astype(np.float64)
    expected = cpuattn.attention(query, key, value, **options)
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


def test_narrow_keys_are_fewer_bytes() -> None:
    assert moved_bytes(small("half")) == (6 * 2 + 4 * 4) * (8 + 8) * 2
    assert moved_bytes(small("brain")) == (6 * 2 + 4 * 4) * (8 + 5) * 2
    # One byte an element, two scales a key; query and result are float32.
    assert moved_bytes(small("integers")) == 2 * 6 * 2 * (8 + 5 + 2 * 4) + 2 * 4 * (8 + 5) * 4


def test_padding_of_packed_sequences_is_no_work() -> None:
    packed = small("behind each other")
    assert flops(packed) == 2 * (4 + 49 + 16) * 4 * (8 + 8)
    assert moved_bytes(packed) == (13 * 2 + 13 * 4) * (8 + 8) * 4


@pytest.mark.parametrize(
    ("name", "limit"),
    [("half", 4e-4), ("brain", 3e-3), ("integers", 1e-6), ("pages", 1e-6)],
)
def test_own_engine_on_narrow_and_paged_keys(name: str, limit: float) -> None:
    case = small(name)
    prepared = own.ENGINE.prepare(case, 1)
    result = prepared.read(prepared.calls[0]())
    assert result.dtype == case.query_dtype
    assert distance(case, result, exact(case)) < limit


def test_packed_result_is_padded_like_the_others() -> None:
    case = small("behind each other")
    prepared = own.ENGINE.prepare(case, 1)
    result = prepared.read(prepared.calls[0]())
    assert result.shape == exact(case).shape
    assert not result[0, :, 2:].any()
    assert distance(case, result, exact(case)) < 1e-6
    wrong = result.copy()
    wrong[2, :, 4:] = np.nan  # padding: nobody looks at it
    assert distance(case, wrong, exact(case)) == distance(case, result, exact(case))
    wrong[2, :, 3] = 0
    assert distance(case, wrong, exact(case)) > 0.1


def test_integers_stand_for_the_numbers_of_the_case() -> None:
    _, key, value = small("integers").inputs()[0]
    for array in (key, value):
        integers, scales = quantise(array)
        assert abs(integers).max(axis=-1).tolist() == [[[127] * 6] * 2] * 2
        np.testing.assert_allclose(dequantise(integers, scales), array, rtol=2e-7)


def test_titles() -> None:
    assert small("behind each other").title() == "3 × 4/2 × 7 × 8, 2 to 7 keys, packed"
    assert small("pages").title() == "2 × 4/2 × 3 over 12 × 8, pages of 4, causal"
    assert small("integers").title() == "2 × 4/2 × 1 over 6 × 8/5, int8, ALiBi"
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
