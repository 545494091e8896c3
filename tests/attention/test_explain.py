"""explain() tells the plan of a call without making it."""

from typing import Any

import numpy as np
import pytest

import cpuattn
from cases import OPTIONS, Shape, make_case
from oracle import Array, Dtype

KEYS = {
    "kernel",
    "isa",
    "products",
    "query_block",
    "key_block",
    "key_chunk",
    "num_chunks",
    "work_items",
    "threads",
    "scratch_bytes",
    "copies",
}


@pytest.mark.parametrize("names", [(), *((name,) for name in OPTIONS), tuple(OPTIONS)], ids=str)
@pytest.mark.parametrize("queries", [1, 100])
def test_keys_and_types(names: tuple[str, ...], queries: int, isa: str, dtype: Dtype) -> None:
    case = make_case(Shape(queries, 300), dtype, names)
    plan = cpuattn.explain(*case.arrays, **case.options)
    assert set(plan) == KEYS
    assert plan["isa"] == isa
    assert plan["kernel"] == ("decode" if queries == 1 else "forward")
    assert plan["copies"] == []
    numbers: dict[str, Any] = {**plan}
    for name in KEYS - {"kernel", "isa", "products", "copies"}:
        assert isinstance(numbers[name], int)
        assert numbers[name] > 0
    assert plan["scratch_bytes"] <= plan["threads"] * 2**21


@pytest.mark.parametrize("empty", ["batch", "heads", "queries"])
def test_empty(empty: str) -> None:
    sizes = {"batch": 2, "heads": 2, "queries": 3, "keys": 3} | {empty: 0}
    arrays = Shape(**sizes, kv_heads=sizes["heads"]).arrays(np.random.default_rng(0), np.float32)
    plan = cpuattn.explain(*arrays)
    assert plan["kernel"] == "empty"
    assert plan["scratch_bytes"] == 0


@pytest.mark.usefixtures("isa")
def test_how_keys_are_split_does_not_depend_on_the_threads() -> None:
    for shape in (Shape(500, 700, heads=8), Shape(70, 9000), Shape(1, 30000, heads=8)):
        arrays = shape.arrays(np.random.default_rng(0), np.float32)
        plans: list[dict[str, Any]]
        plans = [{**cpuattn.explain(*arrays, num_threads=n)} for n in (1, 2, 7, 64)]
        for name in ("kernel", "key_block", "key_chunk", "num_chunks"):
            assert len({plan[name] for plan in plans}) == 1


def test_copies_are_named() -> None:
    query, key, value = Shape(20, 30).arrays(np.random.default_rng(0), np.float32)
    swapped = key.astype(key.dtype.newbyteorder())
    for arrays, name in (((query, swapped, value), "key"), ((query, key, swapped), "value")):
        copies = cpuattn.explain(*arrays)["copies"]
        assert len(copies) == 1
        assert name in copies[0]


def test_nothing_is_computed_or_written() -> None:
    arrays = Shape(20, 30).arrays(np.random.default_rng(0), np.float32)
    out = np.full_like(arrays[0], 7)
    cpuattn.explain(*arrays, out=out, return_lse=True)
    assert (out == 7).all()
    huge = np.broadcast_to(np.float32(1), (2**20, 2**20, 64))
    assert cpuattn.explain(huge[:, :2], huge, huge)["work_items"] >= 2**20


def packed(queries: list[int], keys: list[int], heads: int = 4) -> tuple[Array, ...]:
    """Sequences of these lengths, whose key/value heads have two query heads each."""
    query, key, value = (
        np.zeros((sum(lengths), count, 8), np.float32)
        for lengths, count in ((queries, heads), (keys, heads // 2), (keys, heads // 2))
    )
    ends = (np.cumsum([0, *lengths]) for lengths in (queries, keys))
    return query, key, value, *ends


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("threads", [1, 3])
def test_packed_sequences_have_a_plan_for_each_kernel(threads: int) -> None:
    """Sequences of one length have the plan of a batch of them."""
    queries, keys = [3, 3, 70, 70, 70], [2000, 2000, 900, 900, 900]
    plans = cpuattn.explain_varlen(*packed(queries, keys), num_threads=threads)
    assert [plan["kernel"] for plan in plans] == ["decode", "forward"]
    for plan, batch, rows, length in zip(plans, (2, 3), (3, 70), (2000, 900), strict=True):
        shape = Shape(rows, length, heads=4, kv_heads=2, batch=batch)
        arrays = shape.arrays(np.random.default_rng(0), np.float32)
        assert plan == cpuattn.explain(*arrays, num_threads=threads)


@pytest.mark.usefixtures("isa")
def test_packed_sequences_have_the_items_of_each() -> None:
    """Nothing is planned for the padding, nor for the sequences of the other kernel."""
    queries, keys = [1, 70, 4, 0, 5], [2000, 300, 10, 9000, 900]
    few, others = cpuattn.explain_varlen(*packed(queries, keys), num_threads=1)
    kv_heads, group = 2, 2
    assert few["work_items"] == 2 * kv_heads
    assert few["num_chunks"] == -(-2000 // few["key_chunk"])
    blocks = [-(-rows * group // others["query_block"]) for rows in (70, 5)]
    assert others["work_items"] == sum(blocks) * kv_heads
    assert others["num_chunks"] == -(-900 // others["key_chunk"])


@pytest.mark.usefixtures("isa")
def test_long_sequence_among_short_ones_has_the_items_of_its_own() -> None:
    queries = [10] * 1000 + [2000]
    (plan,) = cpuattn.explain_varlen(*packed(queries, queries), num_threads=1)
    short, long = (-(-2 * rows // plan["query_block"]) for rows in (10, 2000))
    assert plan["work_items"] == 2 * (1000 * short + long)


@pytest.mark.usefixtures("isa")
def test_one_long_sequence_of_few_rows_is_split() -> None:
    """Else one thread reads all of its keys while the others have nothing to do."""
    lengths = [10**6] + [20] * 999
    query = np.broadcast_to(np.float32(0), (1000, 1, 1, 64))
    key = np.broadcast_to(np.float32(0), (1000, 1, 10**6, 64))
    plan = cpuattn.explain(query, key, key, key_lengths=lengths, num_threads=2)
    assert plan["work_items"] == 999 + plan["num_chunks"]
    assert plan["num_chunks"] == -(-(10**6) // plan["key_chunk"])


@pytest.mark.parametrize(
    ("queries", "kernel"),
    [([1, 4], "decode"), ([5, 70], "forward"), ([0, 0], "empty"), ([], "empty")],
)
def test_packed_sequences_of_one_kernel_have_one_plan(queries: list[int], kernel: str) -> None:
    arguments = packed(queries, [30] * len(queries))
    (plan,) = cpuattn.explain_varlen(*arguments)
    assert set(plan) == KEYS
    assert plan["kernel"] == kernel
    assert (
        plan["isa"]
        == cpuattn.explain(*Shape(1, 1).arrays(np.random.default_rng(0), np.float32))["isa"]
    )


def test_plan_of_packed_sequences_tells_copies_and_writes_nothing() -> None:
    query, key, value, *ends = packed([1, 70], [30, 40])
    out = np.full_like(query, 7)
    swapped = key.astype(key.dtype.newbyteorder())
    plans = cpuattn.explain_varlen(query, swapped, value, *ends, causal=True, out=out)
    assert [len(plan["copies"]) for plan in plans] == [1, 1]
    assert "key" in plans[0]["copies"][0]
    assert (out == 7).all()


def test_instruction_sets(isa: str) -> None:
    assert isa in {"avx512", "avx2", "neon", "scalar"}
    assert cpuattn.isas()[-1] == "scalar"
    assert len(set(cpuattn.isas())) == len(cpuattn.isas())


def test_show_config_prints_what_is_used(isa: str, capsys: pytest.CaptureFixture[str]) -> None:
    cpuattn.show_config()
    printed = capsys.readouterr().out
    assert isa in printed
    for name in cpuattn.isas():
        assert name in printed
