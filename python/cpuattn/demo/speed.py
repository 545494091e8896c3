"""The demo's timings: interleaved medians, whole generations and single attention calls."""

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

import cpuattn
from cpuattn.demo.decoder import Config

# Threads of NumPy's BLAS spin for a while after a call, and disturb the first calls of whoever
# comes next: a turn is so long that most of its calls come later.
TURN_SECONDS = 0.2


def interleaved_medians(
    functions: Mapping[str, Callable[[], object]], rounds: int = 5
) -> dict[str, float]:
    """Time functions in turns, so that a slow moment of the machine hits all of them alike.

    Parameters
    ----------
    functions : mapping of str to callable
        The alternatives by name. Each is called once before, to warm up.
    rounds : int, default 5
        How many turns each has; the order rotates.

    Returns
    -------
    dict of str to float
        The median of the turns, of which each is the median of its calls, in seconds.
    """
    for function in functions.values():
        function()
    names = list(functions)
    turns: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turns[name].append(_turn(functions[name]))
    return {name: statistics.median(seconds) for name, seconds in turns.items()}


def _turn(function: Callable[[], object]) -> float:
    """Call for `TURN_SECONDS`, at least once, and return the median seconds of a call."""
    samples: list[float] = []
    end = time.perf_counter() + TURN_SECONDS
    while not samples or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def format_seconds(seconds: float) -> str:
    """Write a duration with three digits and its unit: ``12.3 ms``."""
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{seconds * factor:.3g} {unit}"


def print_generation(generations: Mapping[str, Callable[[], object]], tokens: int) -> None:
    """Time and print how many tokens a second each alternative writes.

    Parameters
    ----------
    generations : mapping of str to callable
        Each writes the same `tokens` tokens, prefill included.
    tokens : int
        How many.
    """
    print("\nthe whole model, prefill and decode (medians of interleaved runs):")
    for name, seconds in interleaved_medians(generations).items():
        print(f"  {name:<16}{tokens / seconds:7.0f} tokens/s")


def print_attention(config: Config) -> None:
    """Time and print one attention call in pure Python, NumPy and cpuattn.

    Parameters
    ----------
    config : Config
        Of the model whose largest possible call is timed first; a larger call follows.
    """
    print("\none causal attention call in float32:")
    print(f"  {'heads × tokens × head_dim':<28}{'pure Python':>12}{'NumPy':>10}{'cpuattn':>10}")
    own = _time_attention(config.heads, config.kv_heads, config.context, config.head_dim)
    _print_row(f"{config.heads} × {config.context} × {config.head_dim}", own)
    larger = _time_attention(8, 8, 1024, 64, pure_python=False)  # that would take minutes
    _print_row("8 × 1024 × 64", larger)


def _print_row(shape: str, seconds: Mapping[str, float]) -> None:
    cells = {name: format_seconds(value) for name, value in seconds.items()}
    pure_python = cells.get("pure Python", "-")
    print(f"  {shape:<28}{pure_python:>12}{cells['NumPy']:>10}{cells['cpuattn']:>10}")


def _time_attention(
    heads: int, kv_heads: int, length: int, head_dim: int, *, pure_python: bool = True
) -> dict[str, float]:
    generator = np.random.default_rng(0)
    query = generator.standard_normal((heads, length, head_dim), np.float32)
    key = generator.standard_normal((kv_heads, length, head_dim), np.float32)
    value = generator.standard_normal((kv_heads, length, head_dim), np.float32)
    functions: dict[str, Callable[[], object]] = {
        "NumPy": lambda: cpuattn.reference.attention_numpy(query, key, value, causal=True),
        "cpuattn": lambda: cpuattn.attention(query, key, value, causal=True),
    }
    if pure_python:
        group = heads // kv_heads
        lists = [
            (query[head].tolist(), key[head // group].tolist(), value[head // group].tolist())
            for head in range(heads)
        ]
        functions["pure Python"] = lambda: [
            cpuattn.reference.attention_pure_python(*one, causal=True) for one in lists
        ]
    return interleaved_medians(functions)
