"""cpuattn itself."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import cpuattn
from cpuattn import _core
from cpuattn._arrays import empty_aligned
from cpuattn.bench.case import Array, Case
from cpuattn.bench.dtypes import quantise
from cpuattn.bench.engines.engine import Call, Engine, Prepared
from cpuattn.bench.memory import untouched


def prepare(case: Case, threads: int) -> Prepared:
    """Store the arrays as the case says; ``CPUATTN_ISA`` names the instruction set."""
    options = case.options() | {"num_threads": threads}
    if case.packed:
        calls = [_packed(case, *arrays, options) for arrays in case.inputs()]
        return Prepared(calls, read=partial(_padded, case))
    store = _store(case)
    return Prepared([store(*arrays, options) for arrays in case.inputs()])


def _store(case: Case) -> Callable[..., Call]:
    if case.page_size is not None:
        return partial(_paged, case)
    return partial(_quantised if case.dtype == "int8" else _plain, case)


def _plain(case: Case, query: Array, key: Array, value: Array, options: dict[str, Any]) -> Call:
    return partial(cpuattn.attention, query, key, value, **options, out=case.output())


def _quantised(case: Case, query: Array, key: Array, value: Array, options: dict[str, Any]) -> Call:
    # The case's numbers are such multiples already: nothing is rounded again.
    (key, key_scale), (value, value_scale) = map(quantise, (key, value))
    scales = {"key_scale": key_scale, "value_scale": value_scale}
    return _plain(case, query, key, value, options | scales)


def _paged(case: Case, query: Array, key: Array, value: Array, options: dict[str, Any]) -> Call:
    size = case.page_size or case.keys
    table = np.random.default_rng(3).permutation(case.batch * (case.keys // size))
    table = table.reshape(case.batch, -1)
    pages = {"block_table": table, "key_lengths": [case.keys] * case.batch}
    key, value = (_pages(x, table, size) for x in (key, value))
    return _plain(case, query, key, value, options | pages)


def _pages(array: Array, table: Array, size: int) -> Array:
    """Cut (B, H, L, D) into pages, (num_pages, H, page_size, D), in the order of a table."""
    batch, heads, _, dim = array.shape
    pages = empty_aligned((table.size, heads, size, dim), array.dtype)
    pages[table] = array.reshape(batch, heads, -1, size, dim).swapaxes(1, 2)
    return pages


def _packed(case: Case, query: Array, key: Array, value: Array, options: dict[str, Any]) -> Call:
    lengths = case.key_lengths or ()
    ends = np.cumsum((0, *lengths))
    arrays = [
        np.concatenate([x[b, :, :length].swapaxes(0, 1) for b, length in enumerate(lengths)])
        for x in (query, key, value)
    ]
    # The lengths are where the sequences begin and end.
    others = {name: option for name, option in options.items() if name != "key_lengths"}
    out = untouched((int(ends[-1]), case.heads, case.value_size), query.dtype)
    return partial(cpuattn.attention_varlen, *arrays, ends, ends, **others, out=out)


def _padded(case: Case, result: Array) -> Array:
    """Pad sequences, (total, H, D), to the shape of the other engines' results."""
    lengths = case.key_lengths or ()
    padded = np.zeros((case.batch, case.heads, case.queries, case.value_size), result.dtype)
    for b, part in enumerate(np.split(result, np.cumsum(lengths)[:-1])):
        padded[b, :, : len(part)] = part.swapaxes(0, 1)
    return padded


def versions() -> dict[str, str]:
    """Name cpuattn and its compiler."""
    config = _core.config()
    return {"cpuattn": config["version"], "cpuattn's compiler": config["compiler"]}


ENGINE = Engine(prepare, versions)
