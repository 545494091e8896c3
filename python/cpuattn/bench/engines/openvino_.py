"""OpenVINO: a model of one ``ScaledDotProductAttention`` node, with bound inputs and results."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cpuattn.bench import masks
from cpuattn.bench.case import Array, Case
from cpuattn.bench.engines.engine import Engine, Prepared, package_version

PACKAGES = ("openvino",)


def prepare(case: Case, threads: int) -> Prepared:
    """Compile the node for the shapes of the case, between transpositions if it has head views."""
    options: list[Array] = []
    # Its causal aligns the first query with the first key.
    causal = case.asks() == {"causal"} and case.queries == case.keys
    mask = None if causal else masks.additive(case)
    if mask is not None:
        options.append(np.ascontiguousarray(mask))
    sets = []
    for query, key, value in case.inputs():
        out = case.output()
        result = out
        if not case.asks():
            # The heads of a group are rows of one product, so that keys are not repeated.
            query = _by_group(query, case)  # noqa: PLW2901
            out = _by_group(out, case)
        if case.head_views:
            query, key, value, out = (x.swapaxes(1, 2) for x in (query, key, value, out))  # noqa: PLW2901
        sets.append(([query, key, value, *options], out, result))
    model = _model(sets[0][0], case, causal=causal)
    compiled = compile_model(model, threads)
    return Prepared([bind(compiled, inputs, out, result) for inputs, out, result in sets])


def _by_group(array: Array, case: Case) -> Array:
    if case.heads == case.kv_heads:
        return array
    return array.reshape(case.batch, case.kv_heads, -1, array.shape[-1])


def _model(inputs: Sequence[Array], case: Case, *, causal: bool) -> Any:
    nodes = importlib.import_module("openvino.opset13")
    parameters = [nodes.parameter(array.shape, array.dtype) for array in inputs]
    query, key, value, *mask = parameters
    order = np.array([0, 2, 1, 3])
    if case.head_views:
        query, key, value = (nodes.transpose(x, order) for x in (query, key, value))
    if case.asks() and case.heads != case.kv_heads:
        key, value = (repeat_heads(x, case.heads // case.kv_heads) for x in (key, value))
    out = nodes.scaled_dot_product_attention(query, key, value, *mask, causal=causal)
    if case.head_views:
        out = nodes.transpose(out, order)
    return importlib.import_module("openvino").Model([nodes.result(out)], parameters, "attention")


def repeat_heads(node: Any, times: int) -> Any:
    """Repeat each head so many times, in the form in which OpenVINO recognises grouped heads."""
    if times == 1:
        return node
    nodes = importlib.import_module("openvino.opset13")
    _, heads, _, size = node.output(0).get_partial_shape()
    five = nodes.broadcast(
        nodes.unsqueeze(node, np.array(2)),
        np.array([1, 1, times, 1, 1]),
        broadcast_spec="BIDIRECTIONAL",
    )
    shape = np.array([0, heads.get_length() * times, -1, size.get_length()])
    return nodes.reshape(five, shape, special_zero=True)


def compile_model(model: Any, threads: int) -> Any:
    """Compile for the shortest time of a call, in float32 throughout."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
    }
    return importlib.import_module("openvino").Core().compile_model(model, "CPU", settings)


def bind(compiled: Any, inputs: Sequence[Array], out: Array, result: Array) -> "BoundCall":
    """Bind arrays to a request of their own. The call returns `result`, a view of `out`."""
    tensor = importlib.import_module("openvino").Tensor
    request = compiled.create_infer_request()
    for n, array in enumerate(inputs):
        request.set_input_tensor(n, tensor(array, shared_memory=True))
    request.set_output_tensor(0, tensor(out, shared_memory=True))
    return BoundCall(request, (inputs, out), result)


@dataclasses.dataclass(frozen=True)
class BoundCall:
    """A request with bound arrays."""

    request: Any
    arrays: tuple[Sequence[Array], Array]  # the request points into them
    result: Array

    def __call__(self) -> Array:
        """Run it."""
        self.request.infer()
        return self.result


def refuses(case: Case) -> str | None:
    """Say what the node lacks."""
    if case.dtype == "float64":
        return "computes float64 in float32"
    return "no softcap" if case.softcap is not None else "no sinks" if case.sinks else None


def versions() -> dict[str, str]:
    """Name OpenVINO."""
    return package_version("OpenVINO", "openvino")


ENGINE = Engine(prepare, versions, refuses, PACKAGES, narrows=False)
