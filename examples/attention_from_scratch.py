"""Attention in three steps, three times: pure Python, NumPy, cpuattn. Run it and read along.

A sentence of L words; each word has a query ("what am I looking for?"), a key ("what do I offer?")
and a value ("what do I say?"), all vectors of D numbers.

    scores  = query · keyᵀ / √D     how well does word j answer word i?     (L, L)
    weights = softmax of each row   the same as shares that sum to 1        (L, L)
    output  = weights · value       the mix of what the words say           (L, D)
"""

from collections.abc import Callable

import numpy as np

import cpuattn
from cpuattn import reference
from cpuattn.demo.speed import interleaved_medians

WORDS = ["the", "cat", "sat", "down"]


def main() -> None:
    """Walk through a small example, then time a larger one."""
    generator = np.random.default_rng(1)
    query, key, value = generator.standard_normal((3, len(WORDS), 4), np.float32)

    # Pure Python: lists and loops. The three functions are in cpuattn/reference.py.
    scores = reference.scores(query.tolist(), key.tolist())
    weights = reference.weights(scores)
    output = reference.output(weights, value.tolist())
    show("1. scores", scores)
    show("2. weights (each row sums to 1)", weights)
    show("3. output", output)

    # NumPy: a line for each step.
    np_scores = query @ key.T / np.sqrt(np.float32(query.shape[1]))
    np_weights = np.exp(np_scores - np_scores.max(axis=1, keepdims=True))
    np_weights /= np_weights.sum(axis=1, keepdims=True)
    np_output = np_weights @ value

    # cpuattn: one call. It never holds the (L, L) arrays; attention_weights makes them on request.
    fast_scores = cpuattn.attention_weights(query, key, stage="scores")
    fast_weights = cpuattn.attention_weights(query, key)
    fast_output = cpuattn.attention(query, key, value)

    for name, python, numpy, fast in (
        ("scores", scores, np_scores, fast_scores),
        ("weights", weights, np_weights, fast_weights),
        ("output", output, np_output, fast_output),
    ):
        np.testing.assert_allclose(numpy, python, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(fast, python, rtol=1e-5, atol=1e-6, err_msg=name)
    print("scores, weights and output are the same numbers in all three.\n")
    time_all_three()


def show(title: str, rows: list[list[float]]) -> None:
    """Print a matrix with a word before each row."""
    print(title)
    for word, row in zip(WORDS, rows, strict=True):
        print(f"  {word:<5}" + "".join(f"{number:8.3f}" for number in row))
    print()


def time_all_three() -> None:
    """Time each way on 1 head of 256 words of 64 numbers."""
    query, key, value = np.random.default_rng(2).standard_normal((3, 256, 64), np.float32)
    lists = query.tolist(), key.tolist(), value.tolist()
    alternatives: dict[str, Callable[[], object]] = {
        "pure Python": lambda: reference.attention_pure_python(*lists),
        "NumPy": lambda: reference.attention_numpy(query, key, value),
        "cpuattn": lambda: cpuattn.attention(query, key, value),
    }
    print("256 words, 64 numbers each (medians of interleaved rounds):")
    for name, seconds in interleaved_medians(alternatives).items():
        print(f"  {name:<12}{1e3 * seconds:10.3f} ms")


if __name__ == "__main__":
    main()
