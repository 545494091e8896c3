"""JAX: `jax.nn.dot_product_attention`, compiled."""

import importlib
import os
from functools import partial
from typing import Any

import numpy as np

from cpuattn.bench import masks
from cpuattn.bench.case import Case
from cpuattn.bench.engines.engine import Engine, Prepared, no_such_cache, package_version

# What it says no to.
DTYPES = {
    "float64": "computes the softmax of float64 in float32",
    "float16": "no products of float16 on CPUs",
}


def prepare(case: Case, threads: int) -> Prepared:
    """Put the arrays into JAX in its layout, (B, L, H, D), and compile the call."""
    jax = _started_on(threads)
    options = _options(case)
    arrays = {name: option for name, option in options.items() if isinstance(option, np.ndarray)}
    flags = {name: option for name, option in options.items() if name not in arrays}

    def attention(query: Any, key: Any, value: Any, arrays: dict[str, Any]) -> Any:
        return jax.nn.dot_product_attention(query, key, value, **arrays, **flags)

    put = [
        jax.device_put((*(np.ascontiguousarray(x.swapaxes(1, 2)) for x in inputs), arrays))
        for inputs in case.inputs()
    ]
    compiled = jax.jit(attention).lower(*put[0]).compile()
    return Prepared(
        [partial(_run, compiled, each) for each in put],
        read=lambda result: np.asarray(result).swapaxes(1, 2),
    )


def _run(compiled: Any, arguments: tuple[Any, ...]) -> Any:
    return compiled(*arguments).block_until_ready()


def _started_on(threads: int) -> Any:
    """Start JAX anew: it has as many threads as processors that it then sees."""
    jax = importlib.import_module("jax")
    importlib.import_module("jax.extend.backend").clear_backends()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    jax.devices()
    os.sched_setaffinity(0, allowed)
    return jax


def _options(case: Case) -> dict[str, Any]:
    # Its is_causal aligns the first query with the first key.
    if case.asks() == {"causal"} and case.queries == case.keys:
        return {"is_causal": True}
    if case.asks() == {"window"}:
        return {"local_window_size": tuple(case.window or ())}
    if case.asks() == {"key_lengths"} and not case.padding_mask:
        return {"key_value_seq_lengths": np.array(case.key_lengths, np.int32)}
    named = {"mask": masks.visible(case), "bias": masks.added(case)}
    return {name: array for name, array in named.items() if array is not None}


def refuses(case: Case) -> str | None:
    """Say what it does not take, masks and biases included."""
    if case.dtype in DTYPES:
        return DTYPES[case.dtype]
    if case.softcap is not None or case.sinks:
        return "no softcap" if case.softcap is not None else "no sinks"
    if case.value_size != case.head_dim:
        return "values must be as wide as keys"
    if not hasattr(os, "sched_setaffinity"):
        return "its threads can only be limited on Linux"
    return no_such_cache(case)


def versions() -> dict[str, str]:
    """Name JAX."""
    return package_version("JAX", "jax")


ENGINE = Engine(prepare, versions, refuses, ("jax",), narrows=False)
