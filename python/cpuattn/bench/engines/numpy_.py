"""NumPy: two matrix products and a softmax in place, as an expert writes it."""

import dataclasses
import importlib
import math
from typing import Any

import numpy as np

from cpuattn.bench import masks
from cpuattn.bench.case import Array, Case
from cpuattn.bench.engines.engine import Engine, Prepared, no_such_cache


def prepare(case: Case, threads: int) -> Prepared:
    """Limit the threads of the BLAS, and make what is added to the scores."""
    importlib.import_module("threadpoolctl").threadpool_limits(threads)
    for pool in _pools():
        if pool["num_threads"] != threads:
            raise RuntimeError(f"{pool['internal_api']} does not run on {threads} threads")
    bias = masks.additive(case)
    if bias is not None:  # (B, Hkv, Hq / Hkv, Lq, Lk)
        group = (case.kv_heads, -1) if bias.shape[1] == case.heads > 1 else (1, 1)
        bias = bias.reshape(bias.shape[0], *group, *bias.shape[2:])
    sinks = None
    if case.sinks:
        sinks = np.repeat(masks.sinks(case), case.queries).reshape(1, case.kv_heads, -1, 1)
    scores = _Scores(bias, case.softcap, sinks)
    return Prepared([scores.bind(*arrays) for arrays in case.inputs()])


@dataclasses.dataclass(frozen=True)
class _Scores:
    """The options of a call."""

    bias: Array | None
    softcap: float | None
    sinks: Array | None  # (1, Hkv, Hq / Hkv * Lq, 1)

    def bind(self, query: Array, key: Array, value: Array) -> Any:
        return lambda: self._attention(query, key, value)

    def _attention(self, query: Array, key: Array, value: Array) -> Array:
        batch, heads, length, head_dim = query.shape
        kv_heads = key.shape[1]
        # The heads of a group are rows of one product, so that keys are not repeated.
        rows = query.reshape(batch, kv_heads, -1, head_dim)
        scores = (rows * rows.dtype.type(1 / math.sqrt(head_dim))) @ key.swapaxes(-1, -2)
        if self.softcap is not None:
            scores /= self.softcap
            np.tanh(scores, out=scores)
            scores *= self.softcap
        if self.bias is not None:
            by_head = scores.reshape(batch, kv_heads, -1, length, key.shape[2])
            by_head += self.bias
        largest = scores.max(axis=-1, keepdims=True)
        if self.sinks is not None:
            largest = np.maximum(largest, self.sinks)
        scores -= largest
        np.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True)
        if self.sinks is not None:
            total += np.exp(self.sinks - largest)
        out: Array = scores @ value
        out /= total
        return out.reshape(batch, heads, length, value.shape[-1])


def refuses(case: Case) -> str | None:
    """Say what it would have to convert first."""
    if case.dtype in ("float16", "bfloat16"):
        return "its BLAS multiplies no 16-bit numbers"
    return no_such_cache(case)


def versions() -> dict[str, str]:
    """Name NumPy and its BLAS."""
    # On x86 the kernels that OpenBLAS chose say whether the environment has spoiled it.
    blas = [pool for pool in _pools() if pool["user_api"] == "blas"]
    fields = "internal_api", "version", "architecture"
    names = [" ".join(str(pool[field]) for field in fields if field in pool) for pool in blas]
    return {"NumPy": np.__version__, "NumPy's BLAS": ", ".join(names) or "not known"}


def _pools() -> list[dict[str, Any]]:
    pools: list[dict[str, Any]] = importlib.import_module("threadpoolctl").threadpool_info()
    return pools


ENGINE = Engine(prepare, versions, refuses)
