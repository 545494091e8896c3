"""ONNX Runtime: the standard operator ``Attention`` of opset 24."""

from typing import Any

import numpy as np

from cpuattn.bench import masks
from cpuattn.bench.case import Array, Case
from cpuattn.bench.engines import ort
from cpuattn.bench.engines.engine import Engine, Prepared, no_such_cache


def prepare(case: Case, threads: int) -> Prepared:
    """Bind (B, H, L, D) natively, and head views as the (B, L, H * D) that they view."""
    attributes: dict[str, Any] = {"softcap": case.softcap or 0.0}
    if case.head_views:
        attributes |= {"q_num_heads": case.heads, "kv_num_heads": case.kv_heads}
    options: dict[str, Array | None] = {"mask": None, "past_key": None, "past_value": None}
    # Without a cache its is_causal aligns the first query with the first key.
    if case.asks() <= {"causal", "softcap"} and case.queries == case.keys:
        attributes["is_causal"] = int(case.causal)
    elif case.asks() == {"key_lengths"} and not case.padding_mask:
        options["key_lengths"] = np.array(case.key_lengths, np.int64)
    else:
        options["mask"] = ort.with_queries(masks.additive(case), case.queries)

    def bound(query: Array, key: Array, value: Array) -> ort.Bound:
        result = out = case.output()
        if case.head_views:
            query, key, value, out = map(ort.packed, (query, key, value, out))
        named = {"query": query, "key": key, "value": value, **options}
        return ort.Bound(named, {"out": out}, result)

    sets = [bound(*inputs) for inputs in case.inputs()]
    return ort.prepare("Attention", sets, threads, **attributes)


def refuses(case: Case) -> str | None:
    """Say what the operator or its kernel lacks."""
    if case.dtype == "float64":
        return "computes float64 with the precision of float32"
    if case.dtype == "bfloat16":
        return "no bfloat16"
    return "no sinks" if case.sinks else no_such_cache(case)


ENGINE = Engine(prepare, ort.versions, refuses, ort.PACKAGES, narrows=False)
