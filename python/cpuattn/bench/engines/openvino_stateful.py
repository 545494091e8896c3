"""OpenVINO with the cache in its own state, to which each call adds its keys and values.

That is the form of its language models: ``ReadValue``, ``Concat`` and ``Assign`` around the
attention node, which OpenVINO fuses into one.
"""

import importlib
from typing import Any

import numpy as np

from cpuattn.bench.case import Array, Case
from cpuattn.bench.engines import openvino_
from cpuattn.bench.engines.engine import Engine, Prepared

# Each call makes the cache longer by its queries, until it is rewound before the next turn: below
# this many keys that would change the case.
FEWEST_KEYS = 1024
STATES = "key", "value"


def prepare(case: Case, threads: int) -> Prepared:
    """Fill a cache for each set with all but the last keys, which the call adds."""
    compiled = openvino_.compile_model(_model(case), case, threads)
    kinds = {
        operation.get_rt_info()["layerType"].astype(str)
        for operation in compiled.get_runtime_model().get_ordered_ops()
    }
    if "Concatenation" in kinds:
        raise RuntimeError("the cache is not fused with the attention node")
    beams = np.arange(case.batch, dtype=np.int32)
    caches = [_Cache(compiled, case, *arrays, beams) for arrays in case.inputs()]

    def rewind() -> None:
        for cache in caches:
            cache.rewind()

    return Prepared([cache.call for cache in caches], rewind=rewind)


class _Cache:
    """The request of one set, and what belongs into its state."""

    def __init__(
        self, compiled: Any, case: Case, query: Array, key: Array, value: Array, beams: Array
    ) -> None:
        past = case.keys - case.queries
        before = max(past - case.queries, 0)
        parts = [[x[:, :, :before], x[:, :, before:past], x[:, :, past:]] for x in (key, value)]
        self._state, self._last, self._new = (
            [np.ascontiguousarray(x) for x in part] for part in zip(*parts, strict=True)
        )
        out = case.output()
        self.call = openvino_.bind(compiled, [query, *self._new, beams], out, out)

    def rewind(self) -> None:
        """Fill the state; the last past keys come by a call, which makes room for more."""
        request = self.call.request
        for state in request.query_state():
            state.state = openvino_.tensor(self._state[STATES.index(state.name)])
        for n, array in enumerate(self._last, 1):
            request.set_input_tensor(n, openvino_.tensor(array))
        request.infer()
        for n, array in enumerate(self._new, 1):
            request.set_input_tensor(n, openvino_.tensor(array))


def _model(case: Case) -> Any:
    openvino = importlib.import_module("openvino")
    nodes = importlib.import_module("openvino.opset13")
    stateful = importlib.import_module("openvino.opset6")
    dtype = openvino_.element_type(case.query_dtype)
    query = nodes.parameter([case.batch, case.heads, case.queries, case.head_dim], dtype)
    beams = nodes.parameter([-1], np.int32)
    parameters, assigned, whole = [query], [], []
    for name in STATES:
        shape = [case.batch, case.kv_heads, -1, case.head_dim]
        new = nodes.parameter(shape, dtype)
        parameters.append(new)
        empty = nodes.constant(openvino.Tensor(dtype, [*shape[:2], 0, shape[3]]))
        past = stateful.read_value(empty, name, dtype, shape)
        chosen = nodes.gather(past, beams, nodes.constant(np.array(0)))  # else it is not fused
        total = nodes.concat([chosen, new], 2)
        assigned.append(stateful.assign(total, name))
        whole.append(openvino_.repeat_heads(total, case.heads // case.kv_heads))
    out = nodes.scaled_dot_product_attention(query, *whole, causal=case.causal)
    return openvino.Model([nodes.result(out)], assigned, [*parameters, beams], "decode")


def refuses(case: Case) -> str | None:
    """Take part in decode."""
    if case.queries > 8 or case.keys < FEWEST_KEYS:
        return "only in decode over a long cache"
    if case.dtype == "float64":
        return "computes float64 in float32"
    if case.page_size is not None:
        return "takes no pages"
    return None if case.asks() <= {"causal"} else "no masks"


ENGINE = Engine(prepare, openvino_.versions, refuses, openvino_.PACKAGES, narrows=False)
