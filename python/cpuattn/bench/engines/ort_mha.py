"""ONNX Runtime: the operator ``MultiHeadAttention`` of its own domain."""

from typing import Any

import numpy as np

from cpuattn.bench import masks
from cpuattn.bench.case import Array, Case
from cpuattn.bench.engines import ort
from cpuattn.bench.engines.engine import Engine, Prepared, no_such_cache
from cpuattn.bench.memory import untouched


def prepare(case: Case, threads: int) -> Prepared:
    """Bind (B, L, H * D), which it transposes in the call, and masks of each kind that it has."""
    attributes: dict[str, Any] = {"num_heads": case.heads}
    options: dict[str, Array | None] = {"linear_bias": None, "key_lengths": None, "bias": None}
    # Its unidirectional aligns the first query with the first key.
    if case.asks() == {"causal"} and case.queries == case.keys:
        attributes["unidirectional"] = 1
    elif case.asks() == {"key_lengths"}:
        options["key_lengths"] = np.array(case.key_lengths, np.int32)
    else:
        options["bias"] = ort.with_queries(masks.additive(case), case.queries)

    def bound(query: Array, key: Array, value: Array) -> ort.Bound:
        # A cache of (B, H, L, D) is taken natively: for few queries, transposing it would be
        # most of the work.
        cached = case.queries <= 8 < case.keys
        named = {
            "query": ort.packed(query),
            "key": key if cached else ort.packed(key),
            "value": value if cached else ort.packed(value),
            **options,
        }
        out = untouched((case.batch, case.queries, case.heads * case.value_size), case.query_dtype)
        return ort.Bound(named, {"out": out}, ort.unpacked(out, case.heads))

    sets = [bound(*inputs) for inputs in case.inputs()]
    return ort.prepare("MultiHeadAttention", sets, threads, domain=ort.CONTRIB, **attributes)


def refuses(case: Case) -> str | None:
    """Say what the operator lacks."""
    if case.dtype in ("float64", "bfloat16"):
        return f"no {case.dtype}"
    if case.heads != case.kv_heads:
        return "no grouped heads"
    if case.softcap is not None:
        return "no softcap"
    return "no sinks" if case.sinks else no_such_cache(case)


ENGINE = Engine(prepare, ort.versions, refuses, ort.PACKAGES, narrows=False)
