"""Who computes it. An engine turns a case into calls without arguments, ready to be timed.

Conversions, masks and settings belong into the preparation: only the call itself is timed, in the
form in which a user of that engine would write it. All of them allocate their result.
"""

import dataclasses
import importlib
import importlib.util
import math
import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import cpuattn
from cpuattn import _core, reference
from cpuattn.bench.cases import Array, Case

Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Engine:
    """What the benchmark asks of an engine."""

    # Makes one call for each set of the case's inputs, on so many threads.
    prepare: Callable[[Case, int], Sequence[Call]]
    # Names the packages that do the work, and their versions.
    versions: Callable[[], dict[str, str]]


def prepare_pure_python(case: Case, _threads: int) -> Sequence[Call]:
    """Nested lists and loops: `cpuattn.reference.attention_pure_python`, head by head."""

    def attention(query: list[Any], key: list[Any], value: list[Any]) -> list[Any]:
        heads = zip(query, key, value, strict=True)
        return [[reference.attention_pure_python(q, k, v) for q, k, v in heads]]

    return [partial(attention, *(x[0].tolist() for x in arrays)) for arrays in case.inputs()]


def prepare_numpy(case: Case, threads: int) -> Sequence[Call]:
    """Two matrix products and a softmax in place: NumPy as an expert writes it."""
    importlib.import_module("threadpoolctl").threadpool_limits(threads)
    for pool in _pools():
        if pool["num_threads"] != threads:
            raise RuntimeError(f"{pool['internal_api']} does not run on {threads} threads")
    visible = case.visible()
    bias = None
    if visible is not None:  # (B, Hkv, Hq / Hkv, Lq, Lk)
        bias = np.where(visible, 0, -np.inf).astype(case.dtype)[:, :, None]
    return [partial(_attention_numpy, *arrays, bias) for arrays in case.inputs()]


def _attention_numpy(query: Array, key: Array, value: Array, bias: Array | None) -> Array:
    batch, heads, length, head_dim = query.shape
    kv_heads, keys = key.shape[1:3]
    # The heads of a group are rows of one product, so that keys are not repeated.
    rows = query.reshape(batch, kv_heads, -1, head_dim)
    scores = (rows * rows.dtype.type(1 / math.sqrt(head_dim))) @ key.swapaxes(-1, -2)
    if bias is not None:
        by_head = scores.reshape(batch, kv_heads, -1, length, keys)
        by_head += bias
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    out: Array = scores @ value
    out /= scores.sum(axis=-1, keepdims=True)
    return out.reshape(batch, heads, length, value.shape[-1])


def prepare_torch(case: Case, threads: int) -> Sequence[Call]:
    """`torch.nn.functional.scaled_dot_product_attention` on tensors that share NumPy's memory."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    options: dict[str, Any] = {"enable_gqa": case.heads != case.kv_heads}
    if case.options() == {"causal": True} and case.queries == case.keys:
        options["is_causal"] = True
    elif (visible := case.visible()) is not None:
        options["attn_mask"] = torch.from_numpy(visible)
    function = torch.nn.functional.scaled_dot_product_attention
    tensors = [map(torch.from_numpy, arrays) for arrays in case.inputs()]
    return [partial(function, *each, **options) for each in tensors]


def prepare_cpuattn(case: Case, threads: int) -> Sequence[Call]:
    """`cpuattn.attention`; the instruction set is that of ``CPUATTN_ISA``."""
    options = case.options() | {"num_threads": threads}
    return [partial(cpuattn.attention, *arrays, **options) for arrays in case.inputs()]


def _python_versions() -> dict[str, str]:
    return {platform.python_implementation(): platform.python_version()}


def _numpy_versions() -> dict[str, str]:
    # On x86 the kernels that OpenBLAS chose say whether the environment has spoiled it.
    blas = [pool for pool in _pools() if pool["user_api"] == "blas"]
    fields = "internal_api", "version", "architecture"
    names = [" ".join(str(pool[field]) for field in fields if field in pool) for pool in blas]
    return {"NumPy": np.__version__, "NumPy's BLAS": ", ".join(names) or "not known"}


def _torch_versions() -> dict[str, str]:
    return {"torch": str(importlib.import_module("torch").__version__)}


def _cpuattn_versions() -> dict[str, str]:
    config = _core.config()
    return {"cpuattn": config["version"], "cpuattn's compiler": config["compiler"]}


ENGINES = {
    "pure Python": Engine(prepare_pure_python, _python_versions),
    "NumPy": Engine(prepare_numpy, _numpy_versions),
    "torch": Engine(prepare_torch, _torch_versions),
    "cpuattn": Engine(prepare_cpuattn, _cpuattn_versions),
}


def installed() -> list[str]:
    """Name the engines that can run here, in the order of the tables."""
    return [name for name in ENGINES if name != "torch" or importlib.util.find_spec("torch")]


def takes(engine: str, case: Case) -> bool:
    """Tell whether an engine takes part in a case: pure Python in plain ones that end soon."""
    if engine != "pure Python":
        return True
    plain = not case.options() and case.batch == 1 and case.heads == case.kv_heads
    return plain and case.heads * case.queries * case.keys <= 64 * 64


def _pools() -> list[dict[str, Any]]:
    pools: list[dict[str, Any]] = importlib.import_module("threadpoolctl").threadpool_info()
    return pools
