"""Every option of attention in every form it takes, for the calls of test_bits.py."""

import itertools
from typing import Any

import numpy as np

from bits_groups import Arguments, Sizes, normal
from oracle import Array

INF = float("inf")


def _scores_shapes(s: Sizes) -> list[tuple[int, ...]]:
    """List the ways in which a mask or bias broadcasts to (B, Hq, Lq, Lk)."""
    full = (s.batch, s.heads, s.queries, s.keys)
    one = [tuple(choice) for choice in itertools.product(*((1, n) for n in full))]
    shorter = [full[3:], full[2:], full[1:], (s.queries, 1), (s.heads, 1, s.keys)]
    return list(dict.fromkeys(one + shorter))


def _masks(s: Sizes, rng: np.random.Generator) -> list[Arguments]:
    masks = [rng.random(shape) < 0.7 for shape in _scores_shapes(s)]
    full = rng.random((s.batch, s.heads, s.queries, s.keys)) < 0.6
    full[:, :, ::3] = False
    wide = rng.random((s.keys, 2 * s.queries)) < 0.5
    masks += [full, ~full, wide.T[::2], wide.T[1::2, ::-1], np.zeros_like(full)]
    masks += [np.repeat(full, 2, axis=-1)[..., ::2], np.ones((1, 1), bool)]
    return [{"mask": mask} for mask in masks]


def _biases(s: Sizes, rng: np.random.Generator) -> list[Arguments]:
    biases: list[Array] = []
    dtypes = itertools.cycle(("float32", "float16", "bfloat16", "float64"))
    for shape in _scores_shapes(s):
        bias = 2 * normal(rng, *shape, dtype="float64")
        bias[rng.random(shape) < 0.1] = -INF
        biases.append(bias.astype(normal(rng, 0, dtype=next(dtypes)).dtype))
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        full = normal(rng, s.heads, s.queries, s.keys, dtype=dtype)
        biases += [full, np.repeat(full, 3, axis=-1)[..., ::3], full.swapaxes(-1, -2).copy().mT]
    biases += [np.full((s.queries, s.keys), -INF, np.float32)]
    biases += [np.full((s.keys,), 1e30, np.float32), 1e4 * normal(rng, s.keys, dtype="float32")]
    return [{"bias": bias} for bias in biases]


def _segments(s: Sizes, rng: np.random.Generator) -> list[Arguments]:
    chosen = []
    for batch, most in ((s.batch, 4), (1, 2), (s.batch, 30)):
        ids = [rng.integers(-1, most, (batch, n)) for n in (s.queries, s.keys)]
        chosen += [ids, [np.sort(x, axis=-1) for x in ids]]
    chosen.append([x.astype(np.int32) for x in chosen[0]])
    return [{"query_segments": q, "key_segments": k} for q, k in chosen]


def _positions(s: Sizes) -> dict[str, list[Any]]:
    half = s.keys // 2
    offsets = [0, 5, -3, 1000, -1000, half, [half, -2][: s.batch], np.array([3, s.keys])]
    lengths = [half, 0, s.keys, [half, s.keys], np.array([0, min(1, s.keys)], np.int32)]
    sides = [0, 3, (5, None), (None, 2), (0, 0), (200, 1), (None, None), (1, 70), (97, 96)]
    return {"query_offset": offsets, "key_lengths": lengths, "window": sides}


def _per_head(s: Sizes, rng: np.random.Generator) -> dict[str, list[Any]]:
    slopes = 0.5 ** np.arange(1, s.heads + 1)
    both = rng.random((s.batch, s.heads), np.float32)
    sinks = normal(rng, s.heads)
    some = np.where(np.arange(s.heads) % 2 == 0, -INF, sinks)
    return {
        "alibi_slopes": [slopes, -slopes, both, slopes.astype(np.float16), np.zeros(s.heads)],
        "sinks": [sinks, 100 * sinks, some, sinks.tolist(), np.full(s.heads, -INF)],
    }


def variants(s: Sizes, rng: np.random.Generator) -> dict[str, list[Arguments]]:
    """Give the arguments of each option by itself, in all of its forms."""
    simple: dict[str, list[Any]] = {
        "scale": [0.61, -0.3, 0.0, 30, 1e-3, 1e-20, 1e-38, 1e-42, 1e-50, 1e20, 2.0**-120],
        "softcap": [1.5, 30.0, 1e-3, 1e-30, 1e30, 50],
        "causal": [True],
        **_positions(s),
        **_per_head(s, rng),
    }
    result = {name: [{name: value} for value in values] for name, values in simple.items()}
    result |= {"mask": _masks(s, rng), "bias": _biases(s, rng), "segments": _segments(s, rng)}
    # A window and causal order are seen at their best where positions are moved.
    moved = [{"query_offset": o} for o in (0, 7, -2, [1, 9])]
    for name in ("window", "causal"):
        result[name] += [first | move for first in result[name][:4] for move in moved]
    return result


def ordinary(s: Sizes, rng: np.random.Generator) -> dict[str, Arguments]:
    """Give each option once, in a form that leaves most of the keys visible."""
    chosen = variants(s, rng)
    index = {"mask": 15, "bias": 15, "window": 7, "query_offset": 6, "key_lengths": 3}
    return {name: forms[index.get(name, 0)] for name, forms in chosen.items()}
