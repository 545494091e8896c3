"""Calls of the attention layer for test_bits.py, with projections that every BLAS gives exactly.

Inputs and weights are small integers over a power of two, so that no order of summation rounds;
each row of the output projection has one element that is not zero.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from bits_groups import Arguments, Call, Group, normal
from cpuattn import KVCache, MultiHeadAttention, PagedKVCache
from oracle import Array

E, HEADS = 24, 6


def exact(rng: np.random.Generator, *shape: int, dtype: str) -> Array:
    """Draw multiples of 1/8 from -1 to 1."""
    return (rng.integers(-8, 9, shape) / 8).astype(dtype)


def make_layer(rng: np.random.Generator, dtype: str, **options: Any) -> MultiHeadAttention:
    """Make a layer with exact weights."""
    layer = MultiHeadAttention(E, HEADS, dtype=dtype, rng=0, **options)
    state = layer.state_dict(names="huggingface")
    for name, weight in state.items():
        state[name] = exact(rng, *weight.shape, dtype=dtype)
    out = np.zeros_like(state["out_proj.weight"])
    for row in out:
        row[rng.integers(len(row))] = 2.0 ** rng.integers(-2, 3)
    state["out_proj.weight"] = out
    layer.load_state_dict(state)
    return layer


LAYERS: tuple[Arguments, ...] = (
    {},
    {"bias": False},
    {"kv_heads": 2},
    {"kv_heads": 1, "head_dim": 16, "value_head_dim": 10},
    {"key_dim": 8, "value_dim": 12},
)


def layer(dtype: str, rng: np.random.Generator) -> Iterator[Call]:
    """Self-attention and cross-attention with options."""
    x = exact(rng, 2, 9, E, dtype=dtype)
    cos, sin = (f(rng.uniform(-9, 9, (60, 2))).astype(dtype) for f in (np.cos, np.sin))
    forms: list[Arguments] = [
        {},
        {"causal": True},
        {"causal": True, "key_lengths": [9, 4]},
        {"rope": (cos, sin), "causal": True},
        {"rope": (cos, sin, True), "window": (3, 0)},
        {"sinks": np.linspace(-1, 1, HEADS), "softcap": 2.0},
        {"alibi_slopes": 0.5 ** np.arange(HEADS), "bias": normal(rng, 9, 9)},
        {"mask": rng.random((2, 1, 9, 9)) < 0.7, "scale": 0.4},
    ]
    for options in LAYERS:
        made = make_layer(rng, dtype, **options)
        key_dim, value_dim = options.get("key_dim", E), options.get("value_dim", E)
        context = tuple(exact(rng, 2, 9, n, dtype=dtype) for n in (key_dim, value_dim))
        for i, form in enumerate(forms):
            if "rope" in form and options.get("head_dim", 4) != 4:
                continue
            more = form if key_dim == E else {"context": context} | form
            if key_dim != E and "rope" in form:
                continue
            yield Call(f"{options} {i}", functools.partial(_run, made, x, more))
            if "rope" not in form:
                crossed = {"context": context} | form
                yield Call(f"{options} {i} cross", functools.partial(_run, made, x, crossed))
        yield Call(f"{options} state", functools.partial(_state, made))
        yield Call(f"{options} initial", functools.partial(_initial, options, dtype))


def _run(made: MultiHeadAttention, x: Array, options: Arguments, threads: int) -> Any:
    return made(x, **options, num_threads=threads)


def _state(made: MultiHeadAttention, _threads: int) -> Any:
    return [made.state_dict(), made.state_dict(names="huggingface"), repr(made)]


def _initial(options: Arguments, dtype: str, _threads: int) -> Any:
    return MultiHeadAttention(E, HEADS, dtype=dtype, rng=5, **options).state_dict()


def norms(dtype: str, rng: np.random.Generator) -> Iterator[Call]:
    """Norms of heads and of all features, learned sinks, fused weights of other models."""
    x = exact(rng, 2, 9, E, dtype=dtype)
    for size, offset in itertools.product((4, E), (0.0, 1.0)):
        made = make_layer(rng, dtype)
        state = made.state_dict(names="huggingface")
        state |= {f"{n}_norm.weight": exact(rng, size, dtype=dtype) for n in "qk"}
        state["sinks"] = exact(rng, HEADS, dtype=dtype)
        made.load_state_dict(state, norm_offset=offset)
        yield Call(f"{size} {offset}", functools.partial(_run, made, x, {"causal": True}))
        yield Call(f"{size} {offset} state", functools.partial(_state, made))
    for layout in ("concatenated", "grouped", "conv1d"):
        made = MultiHeadAttention(E, HEADS, kv_heads=2, dtype=dtype, rng=0)
        fused = exact(rng, 40, E, dtype=dtype)
        state = {"c_attn.weight": fused, "c_attn.bias": exact(rng, 40, dtype=dtype)}
        state["c_proj.weight"] = 2 * np.eye(E, dtype=dtype)
        if layout == "conv1d":
            state["c_attn.weight"] = fused.T
        made.load_state_dict(state, layout=layout)
        yield Call(layout, functools.partial(_run, made, x, {"causal": True}))


def _steps(made: MultiHeadAttention, x: Array, paged: str, rope: Any, threads: int) -> list[Any]:
    """Generate with a cache: a prompt, padding, single tokens, and a context kept in it."""
    dims = made.kv_heads, made.head_dim
    dtype = "float64" if made.dtype == np.float64 else "float32"
    options: Arguments = {"rope": rope, "causal": True, "num_threads": threads}
    cache: Any
    more: Arguments = {}
    if paged == "pages":
        cache = PagedKVCache(40, 4, *dims, value_dim=made.value_head_dim, dtype=dtype)
        more["seq_ids"] = [cache.add(), cache.add()]
    else:
        window = 6 if paged == "window" else None
        cache = KVCache(2, *dims, value_dim=made.value_head_dim, dtype=dtype, window=window)
    seen = [made(x[:, :9], cache=cache, **more, **options)]
    seen.append(made(x[:, 9:12], cache=cache, key_lengths=[3, 1], **more, **options))
    seen += [made(x[:, i : i + 1], cache=cache, **more, **options) for i in range(12, 20)]
    if paged != "window":
        seen.append(made(x[:, :2], cache, **more, num_threads=threads))
    return seen


def caches(dtype: str, rng: np.random.Generator) -> Iterator[Call]:
    """Layers that generate with each kind of cache."""
    x = exact(rng, 2, 20, E, dtype=dtype)
    cos, sin = (f(rng.uniform(-9, 9, (60, 2))).astype(dtype) for f in (np.cos, np.sin))
    for options, paged in itertools.product(LAYERS[:4], ("rows", "window", "pages")):
        made = make_layer(rng, dtype, **options)
        for rope in (None, (cos, sin)):
            if rope is None or made.head_dim == 4:
                run = functools.partial(_steps, made, x, paged, rope)
                yield Call(f"{options} {paged} {rope is None}", run)


def groups() -> dict[str, Group]:
    """Name all groups of this module."""
    return {
        f"MultiHeadAttention {make.__name__} {dtype}": functools.partial(make, dtype)
        for make, dtype in itertools.product((layer, norms, caches), ("float32", "float64"))
    }
