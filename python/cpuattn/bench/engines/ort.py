"""ONNX Runtime: a model of one node, with bound inputs and results."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cpuattn.bench.case import Array
from cpuattn.bench.engines.engine import Prepared, package_version

PACKAGES = "onnx", "onnxruntime"
CONTRIB = "com.microsoft"
OPSET, IR_VERSION = 24, 11  # the oldest with which `Attention` takes the lengths of the keys

# Arrays by name, in the order of the operator; None where an optional one is left out.
Arrays = Mapping[str, Array | None]


class Bound(NamedTuple):
    """The arrays of one call."""

    inputs: Arrays
    outputs: Mapping[str, Array]
    result: Array  # (B, Hq, Lq, Dv), a view of an output


def prepare(
    op: str, sets: Sequence[Bound], threads: int, *, domain: str = "", **attributes: float | str
) -> Prepared:
    """Make one session of one operator, and a call with bound arrays for each set."""
    session = _session(op, sets[0], threads, domain=domain, **attributes)
    values = importlib.import_module("onnxruntime").OrtValue
    calls = []
    for bound in sets:
        binding = session.io_binding()
        for name, array in bound.inputs.items():
            if array is not None:
                binding.bind_ortvalue_input(name, values.ortvalue_from_numpy(array))
        for name, array in bound.outputs.items():
            binding.bind_ortvalue_output(name, values.ortvalue_from_numpy(array))
        calls.append(_Call(session.run_with_iobinding, binding, bound))
    return Prepared(calls)


def _session(op: str, like: Bound, threads: int, *, domain: str, **attributes: float | str) -> Any:
    helper = importlib.import_module("onnx.helper")
    runtime = importlib.import_module("onnxruntime")
    runtime.set_default_logger_severity(4)  # failures are raised, and told by who asked

    def described(arrays: Arrays) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in arrays.items()
            if array is not None
        ]

    names = [name if array is not None else "" for name, array in like.inputs.items()]
    node = helper.make_node(op, names, list(like.outputs), domain=domain, **attributes)
    graph = helper.make_graph([node], "one node", described(like.inputs), described(like.outputs))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    return runtime.InferenceSession(model.SerializeToString(), options, providers=providers)


@dataclasses.dataclass(frozen=True)
class _Call:
    run: Callable[[Any], None]
    binding: Any
    arrays: Bound  # the binding points into them

    def __call__(self) -> Array:
        self.run(self.binding)
        return self.arrays.result


def packed(array: Array) -> Array:
    """Copy (B, H, L, D) to (B, L, H * D), without a copy where it already lies so."""
    batch, heads, length, size = array.shape
    return np.ascontiguousarray(array.swapaxes(1, 2)).reshape(batch, length, heads * size)


def unpacked(array: Array, heads: int) -> Array:
    """View (B, L, H * D) as (B, H, L, D)."""
    batch, length, size = array.shape
    return array.reshape(batch, length, heads, size // heads).swapaxes(1, 2)


def with_queries(mask: Array | None, queries: int) -> Array | None:
    """Repeat a mask for each query: ONNX Runtime does not broadcast it there."""
    if mask is None:
        return None
    shape = *mask.shape[:2], queries, mask.shape[3]
    return np.ascontiguousarray(np.broadcast_to(mask, shape))


def versions() -> dict[str, str]:
    """Name ONNX Runtime."""
    return package_version("onnxruntime", "onnxruntime")
