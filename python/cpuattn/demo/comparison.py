"""Attention of one layer by cpuattn, NumPy and torch: the same queries over the same cache."""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import cpuattn
from cpuattn.demo.decoder import Array, Attend, attend

US = "cpuattn"


def numpy_attention(cache: cpuattn.KVCache, query: Array) -> Array:
    """Attend with `reference.attention_numpy`.

    One head at a time, because the scores of all heads of a long text would take gigabytes; for a
    single token all query heads of a key/value head at once, as rows of one product.
    """
    key, value = cache.keys, cache.values
    _, heads, length, head_dim = query.shape
    group = heads // key.shape[1]
    output = np.empty_like(query)
    if length == 1:
        rows = query.reshape(1, -1, group, head_dim)
        for head in range(key.shape[1]):
            attended = cpuattn.reference.attention_numpy(
                rows[:, head], key[:, head], value[:, head]
            )
            output[:, head * group : (head + 1) * group, 0] = attended
        return output
    for head in range(heads):
        shared = head // group
        output[:, head] = cpuattn.reference.attention_numpy(
            query[:, head], key[:, shared], value[:, shared], causal=True
        )
    return output


def torch_attention(torch: Any) -> Attend:
    """Return attention by torch, on as many threads as cpuattn has."""
    torch.set_num_threads(cpuattn.get_num_threads())

    def call(cache: cpuattn.KVCache, query: Array) -> Array:
        arrays = (np.ascontiguousarray(x) for x in (query, cache.keys, cache.values))
        # Its causal aligns the first query with the first key: a single token sees all keys.
        output: Array = torch.nn.functional.scaled_dot_product_attention(
            *map(torch.from_numpy, arrays), is_causal=query.shape[2] > 1, enable_gqa=True
        ).numpy()
        return output

    return call


def engines() -> dict[str, Attend]:
    """Return who can attend here, by name."""
    found: dict[str, Attend] = {US: attend}
    if importlib.util.find_spec("torch"):
        found["torch"] = torch_attention(importlib.import_module("torch"))
    return found | {"NumPy": numpy_attention}


class Comparison:
    """The attention of a decoder: by cpuattn, and in some of its layers by the other engines too.

    The order changes from layer to layer, so that everyone comes once after each other one, and
    after the products of NumPy that stand between two layers.

    Parameters
    ----------
    num_layers : int
        Of the decoder.
    num_compared : int
        In how many of them, evenly spread, everyone attends.
    """

    def __init__(self, num_layers: int, num_compared: int) -> None:
        self._engines = engines()
        self._num_layers = num_layers
        self._compared = set(np.linspace(0, num_layers - 1, num_compared).round().astype(int))
        self.restart()

    def restart(self) -> None:
        """Forget all times and differences."""
        self._calls = 0
        self.seconds: dict[str, list[float]] = {name: [] for name in self._engines}
        self.differences = dict.fromkeys(self._engines, 0.0)
        self.own_seconds = 0.0  # in all layers
        self.other_seconds = 0.0  # that reading would not have taken without the comparison

    def __call__(self, cache: cpuattn.KVCache, query: Array) -> Array:
        """Attend; see `decoder.Attend`."""
        layer = self._calls % self._num_layers
        names = list(self._engines) if layer in self._compared else [US]
        first = len(self.seconds[US]) % len(names)
        self._calls += 1
        results = {}
        for name in names[first:] + names[:first]:
            seconds, results[name] = _timed(lambda: self._engines[name](cache, query))  # noqa: B023
            if name == US:
                self.own_seconds += seconds
            else:
                self.other_seconds += seconds
            if len(names) > 1:
                self.seconds[name].append(seconds)
        ours = results[US]
        for name, result in results.items():
            difference = float(np.abs(result - ours).max() / np.abs(ours).max())
            self.differences[name] = max(self.differences[name], difference)
        return ours

    def median(self, name: str) -> float:
        """Return the median seconds of one layer."""
        return statistics.median(self.seconds[name])


def _timed(function: Callable[[], Array]) -> tuple[float, Array]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result
