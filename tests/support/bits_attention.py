"""Calls of attention for test_bits.py: sizes around the edges of blocks, and all options."""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from bits_groups import Call, Group, Sizes, arrays, attend
from bits_options import ordinary, variants

KINDS = ("float32", "float64", "float16", "bfloat16", "float32+int8")
MIXED = (
    "bfloat16+int8",
    "float16+int8",
    "float32+bfloat16",
    "float32+float16",
    "bfloat16+float32",
    "float16+bfloat16",
)

# Blocks are of 96 keys or 512, chunks of 672.
KEYS = (1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 95, 96, 97, 128, 129, 193, 511, 512, 513, 672, 673)
DIMS = (1, 3, 8, 15, 16, 17, 31, 64, 80, 127, 128, 130)
ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 97)


def keys(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Numbers of keys around blocks and chunks."""
    for count, queries in itertools.product(KEYS, (1, 3, 18)):
        s = Sizes(queries, count, head_dim=20, heads=2, batch=1)
        given = arrays(rng, kind, s)
        yield attend(s.text, given)
        yield attend(f"{s.text} causal", given | {"causal": True})


def rows(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Numbers of rows around blocks, with heads in groups of 1 to 8."""
    for queries, (heads, kv_heads) in itertools.product(ROWS, ((1, 1), (3, 1), (8, 1), (6, 3))):
        s = Sizes(queries, 130, head_dim=17, heads=heads, kv_heads=kv_heads, batch=1)
        given = arrays(rng, kind, s)
        yield attend(s.text, given)
        yield attend(f"{s.text} causal", given | {"causal": True, "query_offset": 20})


def dims(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Features of keys and of values around vectors."""
    pairs = [*((d, d) for d in DIMS), (64, 1), (1, 64), (16, 80), (130, 24), (33, 257), (260, 40)]
    for (head_dim, value_dim), queries in itertools.product(pairs, (1, 4, 20)):
        for count in (5, 101):
            s = Sizes(queries, count, head_dim, value_dim, heads=2, batch=1)
            yield attend(s.text, arrays(rng, kind, s))


def option(name: str, kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """One option in all of its forms, with few rows and many."""
    for s in (Sizes(1, 673), Sizes(4, 99, heads=2), Sizes(2, 9), Sizes(35, 131), Sizes(9, 700)):
        given = arrays(rng, kind, s)
        for i, form in enumerate(variants(s, rng)[name]):
            yield attend(f"{s.text} {name} {i}", given | form)


def pairs(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Every two options together, and all."""
    for s in (Sizes(1, 530), Sizes(3, 60, heads=2), Sizes(37, 140, value_dim=13)):
        given, forms = arrays(rng, kind, s), ordinary(s, rng)
        for chosen in (*itertools.combinations(forms, 2), tuple(forms)):
            merged = given.copy()
            for name in chosen:
                merged |= forms[name]
            yield attend(f"{s.text} {'+'.join(chosen)}", merged)


def large(kind: str, rng: np.random.Generator) -> Iterator[Call]:
    """Calls that several threads share, by rows or by chunks of keys."""
    for s in (
        Sizes(1, 4100, 64, batch=1),
        Sizes(150, 300, 64, heads=2, batch=1),
        Sizes(20, 2100, 64, heads=1, kv_heads=1, batch=1),
        Sizes(2, 1500, 64),
    ):
        given = arrays(rng, kind, s)
        for options in ({}, {"causal": True}, {"window": (300, 20), "softcap": 3.0}):
            yield attend(f"{s.text} {options}", given | options)


def groups() -> dict[str, Group]:
    """Name all groups of this module."""
    found: dict[str, Group] = {}
    for kind in (*KINDS, *MIXED):
        for make in (keys, rows, dims, pairs, large):
            if kind in KINDS or make is pairs or make is dims:
                name = f"attention {make.__name__} {kind}"
                found[name] = functools.partial(make, kind)
    names = variants(Sizes(1, 1), np.random.default_rng(0))
    for name, kind in itertools.product(names, ("float32", "float64", "bfloat16", "float32+int8")):
        found[f"attention {name} {kind}"] = functools.partial(option, name, kind)
    return found
