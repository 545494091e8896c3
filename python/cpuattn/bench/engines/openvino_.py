"""OpenVINO: a model of one ``ScaledDotProductAttention`` node, with bound inputs and results."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cpuattn.bench import masks
from cpuattn.bench.case import Array, Case
from cpuattn.bench.engines.engine import Engine, Prepared, no_such_cache, package_version

PACKAGES = ("openvino",)
# What it calls the dtypes of inputs.
TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


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
    compiled = compile_model(model, case, threads)
    return Prepared([bind(compiled, inputs, out, result) for inputs, out, result in sets])


def _by_group(array: Array, case: Case) -> Array:
    if case.heads == case.kv_heads:
        return array
    return array.reshape(case.batch, case.kv_heads, -1, array.shape[-1])


def _model(inputs: Sequence[Array], case: Case, *, causal: bool) -> Any:
    nodes = importlib.import_module("openvino.opset13")
    parameters = [nodes.parameter(array.shape, element_type(array.dtype)) for array in inputs]
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
    """Repeat each head `times` times, in the form in which OpenVINO recognizes grouped heads."""
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


def element_type(dtype: DTypeLike) -> Any:
    """Give its name of a dtype that its inputs may have."""
    return getattr(importlib.import_module("openvino").Type, TYPES[np.dtype(dtype).name])


def compile_model(model: Any, case: Case, threads: int) -> Any:
    """Compile for the shortest time of a call, with products in the dtype of the case."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # It keeps to float32 on CPUs that have no products of that dtype.
        "INFERENCE_PRECISION_HINT": TYPES[case.query_dtype.name],
        "KV_CACHE_PRECISION": "u8" if case.dtype == "int8" else TYPES[case.query_dtype.name],
    }
    return importlib.import_module("openvino").Core().compile_model(model, "CPU", settings)


def bind(compiled: Any, inputs: Sequence[Array], out: Array, result: Array) -> "BoundCall":
    """Bind arrays to a request of their own. The call returns `result`, a view of `out`."""
    request = compiled.create_infer_request()
    for n, array in enumerate(inputs):
        request.set_input_tensor(n, tensor(array))
    request.set_output_tensor(0, tensor(out))
    return BoundCall(request, (inputs, out), result)


def tensor(array: Array) -> Any:
    """Make a tensor that shares the memory of an array."""
    made = importlib.import_module("openvino").Tensor
    if array.dtype.name == "bfloat16":  # NumPy does not know it: the same bits by another name
        return made(array.view(np.uint16), list(array.shape), element_type(array.dtype))
    return made(array, shared_memory=True)


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
    if case.softcap is not None:
        return "no softcap"
    return "no sinks" if case.sinks else no_such_cache(case)


def versions() -> dict[str, str]:
    """Name OpenVINO."""
    return package_version("OpenVINO", "openvino")


ENGINE = Engine(prepare, versions, refuses, PACKAGES, narrows=False)
