"""Calls of attention for test_bits.py: layouts, pages, outputs, empty arrays, odd values."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import cpuattn
from bits_groups import Arguments, Call, Group, Sizes, arrays, attend, normal
from cache_cases import dtype_of
from cases import paged
from oracle import Array

ARRAYS = ("query", "key", "value")


def shifted(x: Array) -> Array:
    """Copy an array to memory one byte beside where it should begin."""
    memory = np.zeros(x.nbytes + 1, np.uint8)
    copied = memory[1:].view(x.dtype).reshape(x.shape)
    copied[...] = x
    return copied


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "lengths before heads": lambda x: x.swapaxes(1, 2).copy().swapaxes(1, 2),
    "features first": lambda x: x.mT.copy().mT,
    "every third": lambda x: np.repeat(x, 3, axis=-1)[..., ::3],
    "backwards": lambda x: x[..., ::-1, :].copy()[..., ::-1, :],
    "features backwards": lambda x: x[..., ::-1].copy()[..., ::-1],
    "batch backwards": lambda x: x[::-1],
    "one token": lambda x: np.broadcast_to(x[..., :1, :], x.shape),
    "one feature": lambda x: np.broadcast_to(x[..., :1], x.shape),
    "one head": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "batch of one": lambda x: x[:1],
    "no batch": lambda x: x[0],
    "not aligned": shifted,
}


def layouts(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Strides of all kinds, of one array and of all."""
    for s in (Sizes(1, 130), Sizes(4, 99, heads=2), Sizes(21, 110, value_dim=9)):
        given = arrays(rng, kind, s)
        for name, lay_out in LAYOUTS.items():
            for chosen in (*((n,) for n in ARRAYS), ARRAYS):
                changed = given | {n: lay_out(given[n]) for n in chosen}
                if name in {"no batch", "batch of one"} and len(chosen) > 1:
                    changed |= {n: lay_out(x) for n, x in given.items() if n not in ARRAYS}
                yield attend(f"{s.text} {name}: {chosen}", changed)
        if not {"float16", "bfloat16"} & {x.dtype.name for x in given.values()}:
            swapped = {n: given[n].astype(given[n].dtype.newbyteorder()) for n in ARRAYS}
            yield attend(f"{s.text} swapped bytes", given | swapped)


def pages(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Pages of all sizes in random order."""
    names = ["key", "value"] + ["key_scale", "value_scale"] * kind.endswith("int8")
    for s in (Sizes(1, 330), Sizes(4, 100, heads=2), Sizes(20, 210), Sizes(2, 1400)):
        given = arrays(rng, kind, s)
        for size in (1, 7, 16, 64, 96, 200):
            seed = int(rng.integers(1000))
            scattered: Arguments = {}
            for name in names:
                fill = 77 if given[name].dtype == np.int8 else np.nan
                order = np.random.Generator(np.random.PCG64(seed))
                scattered[name], table = paged(given[name], size, order, fill)
            for options in ({}, {"causal": True}, {"window": (50, 3), "query_offset": 40}):
                for lengths in ([s.keys, s.keys], [s.keys // 2, 1]):
                    more = {"block_table": table, "key_lengths": lengths, **options}
                    label = f"{s.text} pages of {size}, {lengths} {options}"
                    yield attend(label, given | scattered | more)


def outputs(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Results of every dtype, and written in place."""

    def into(out: Array, given: Arguments) -> Callable[[int], Any]:
        def run(threads: int) -> Any:
            out[...] = 3
            whole = out if out.base is None else out.base
            result, lse = cpuattn.attention(**given, out=out, return_lse=True, num_threads=threads)
            return result, lse, whole

        return run

    for s in (Sizes(1, 130), Sizes(4, 99, heads=2), Sizes(21, 110, value_dim=9)):
        given = arrays(rng, kind, s)
        shape = (s.batch, s.heads, s.queries, given["value"].shape[-1])
        names = ["float64"] if kind == "float64" else ["float32", "float16", "bfloat16"]
        for name in names:
            dtype = dtype_of(name)
            yield Call(f"{s.text} {name}", into(np.empty(shape, dtype), given))
            wide = np.zeros((*shape[:3], 2 * shape[3]), dtype)
            yield Call(f"{s.text} {name} strided", into(wide[..., 1::2], given))
            swapped = np.zeros((shape[0], shape[2], shape[1], shape[3]), dtype)
            yield Call(f"{s.text} {name} lengths first", into(swapped.swapaxes(1, 2), given))


def empty(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Sizes of zero, of one and several axes, and arrays of 2 to 5 axes."""
    names = ("queries", "keys", "batch", "heads", "head_dim", "value_dim")
    for count in (1, 2):
        for chosen in itertools.combinations(names, count):
            sizes = {"queries": 3, "keys": 5, "head_dim": 4, "value_dim": 6, "heads": 2}
            sizes |= {"batch": 2} | dict.fromkeys(chosen, 0)
            s = Sizes(**sizes, kv_heads=sizes["heads"])
            for options in ({"scale": 0.5}, {"sinks": [0.5, -1.0][: s.heads], "scale": 1.0}):
                yield attend(f"no {chosen} {options}", arrays(rng, kind, s) | options)
    if kind.endswith("int8"):
        return
    shapes = [(4, 9), (2, 4, 9), (3, 2, 4, 9), (2, 3, 2, 4, 9), (1, 1, 1, 2, 4, 9)]
    for leading in shapes:
        given = {n: normal(rng, *leading, dtype=kind) for n in ARRAYS}
        yield attend(f"{leading}", given)
        if len(leading) > 3:
            first = {n: given[n][(0,) * (len(leading) - 3)] for n in ("key", "value")}
            yield attend(f"{leading} keys without batch", given | first)
    query, key = normal(rng, 3, 1, 2, 5, 8, dtype=kind), normal(rng, 1, 2, 1, 6, 8, dtype=kind)
    yield attend("batches of two axes", {"query": query, "key": key, "value": key})
    yield attend("query without batch", {"query": query[0, 0], "key": key, "value": key})


def odd_values(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """NaN, infinities, zeros, and the largest and smallest numbers, seen and hidden."""
    dtype = dtype_of(kind.split("+", maxsplit=1)[0])
    largest = 6e4 if dtype == np.float16 else 3e38
    values = (np.nan, np.inf, -np.inf, 0.0, -0.0, largest, -largest, 1e-7, 1e-30)
    for s in (Sizes(1, 130), Sizes(4, 40, heads=2), Sizes(21, 110)):
        clean = arrays(rng, kind, s)
        hidden = np.ones(s.keys, bool)
        hidden[s.keys // 2] = False
        for name, odd in itertools.product(clean, values):
            if clean[name].dtype == np.int8:
                continue
            given = clean | {name: clean[name].copy()}
            row = s.queries // 2 if name == "query" else s.keys // 2
            given[name][:, 0, row] = odd
            for options in ({}, {"mask": hidden}, {"causal": True, "query_offset": 0}):
                yield attend(f"{s.text} {name} {odd} {tuple(options)}", given | options)
        for name, odd in itertools.product(("query", "key", "value"), values):
            if clean[name].dtype != np.int8:
                whole = np.full_like(clean[name], odd)
                yield attend(f"{s.text} all {name} {odd}", clean | {name: whole})
        for odd in (np.nan, np.inf):
            bias = np.zeros((s.queries, s.keys), np.float32)
            bias[0, -1] = odd
            yield attend(f"{s.text} bias {odd}", clean | {"bias": bias})
            yield attend(f"{s.text} sinks {odd}", clean | {"sinks": [odd] * s.heads})
            yield attend(f"{s.text} slopes {odd}", clean | {"alibi_slopes": [odd] * s.heads})


def huge_scores(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Scores that overflow or vanish before the softmax, by numbers and by the scale."""
    for s in (Sizes(1, 130), Sizes(4, 40, heads=2), Sizes(21, 110)):
        given = arrays(rng, kind, s)
        for power in (-14, -6, 6, 14):
            factor = given["query"].dtype.type(2.0**power)
            for scale in (None, 1e-40, 1e-10, 1e10, 1e38):
                changed = given | {"query": given["query"] * factor, "scale": scale}
                yield attend(f"{s.text} 2^{power} scale {scale}", changed)


def groups() -> dict[str, Group]:
    """Name all groups of this module."""
    kinds = ("float32", "float64", "float16", "bfloat16", "float32+int8", "bfloat16+int8")
    makers = (layouts, pages, outputs, empty, odd_values, huge_scores)
    return {
        f"attention {make.__name__} {kind}": functools.partial(make, kind)
        for make, kind in itertools.product(makers, kinds)
    }
