"""ONNX Runtime: the operator ``GroupQueryAttention`` of its own domain, made for decoders."""

from typing import Any

import numpy as np

from cpuattn.bench import masks
from cpuattn.bench.case import Array, Case
from cpuattn.bench.engines import ort
from cpuattn.bench.engines.engine import Engine, Prepared
from cpuattn.bench.memory import untouched


def prepare(case: Case, threads: int) -> Prepared:
    """Bind (B, L, H * D) of new tokens, and a cache in which they are stored in place.

    Each call stores the last keys where they already are.
    """
    attributes: dict[str, Any] = {"num_heads": case.heads, "kv_num_heads": case.kv_heads}
    attributes["softcap"] = case.softcap or 0.0
    if case.window is not None:
        attributes["local_window_size"] = case.window[0] + 1
    if case.dtype == "int8":
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
        attributes["kv_cache_bit_width"] = 8
    bias = ort.with_queries(masks.added(case), case.queries)
    sinks = masks.sinks(case) if case.sinks else None

    def bound(query: Array, key: Array, value: Array) -> ort.Bound:
        key, value = np.ascontiguousarray(key), np.ascontiguousarray(value)
        new = slice(case.keys - case.queries, None)
        filled = case.queries < case.keys
        new_key, new_value = ort.packed(key[:, :, new]), ort.packed(value[:, :, new])
        key_scale = value_scale = None
        if case.dtype == "int8":
            (key, key_scale), (value, value_scale) = map(_quantised, (key, value))
        named = {
            "query": ort.packed(query),
            "key": new_key,
            "value": new_value,
            "past_key": key if filled else None,
            "past_value": value if filled else None,
            "last_positions": np.full(case.batch, case.keys - 1, np.int32),
            "length": np.array([case.keys], np.int32),
            "cosines": None,
            "sines": None,
            "positions": None,
            "bias": bias,
            "sinks": sinks,
            "key_scale": key_scale,
            "value_scale": value_scale,
        }
        out = untouched((case.batch, case.queries, case.heads * case.head_dim), query.dtype)
        outputs = {
            "out": out,
            "present_key": key if filled else untouched(key.shape, key.dtype),
            "present_value": value if filled else untouched(value.shape, value.dtype),
        }
        return ort.Bound(named, outputs, ort.unpacked(out, case.heads))

    sets = [bound(*inputs) for inputs in case.inputs()]
    return ort.prepare("GroupQueryAttention", sets, threads, domain=ort.CONTRIB, **attributes)


def _quantised(array: Array) -> tuple[Array, Array]:
    """Round to int8 as it takes it, with one scale for each head and dim."""
    scales = abs(array).max(axis=(0, 2)) / np.float32(127)
    return np.rint(array / scales[:, None]).astype(np.int8), scales.ravel()


def refuses(case: Case) -> str | None:
    """Say what the operator lacks: it is always causal."""
    if case.dtype in ("float64", "bfloat16"):
        return f"no {case.dtype}"
    looks_back = case.causal or (case.window is not None and case.window[1] == 0)
    if not looks_back and case.queries > 1:
        return "always causal"
    if case.queries > case.keys or case.key_lengths is not None or case.documents is not None:
        return "made for decoders"
    if case.value_size != case.head_dim:
        return "values must be as wide as keys"
    if case.page_size is not None:
        return "takes no pages"
    return "head_dim must be a multiple of 8" if case.head_dim % 8 else None


ENGINE = Engine(prepare, ort.versions, refuses, ort.PACKAGES, narrows=False)
