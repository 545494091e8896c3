"""torch: `torch.nn.functional.scaled_dot_product_attention`."""

import importlib
from functools import partial
from typing import Any

import numpy as np

from cpuattn.bench import masks
from cpuattn.bench.case import Array, Case
from cpuattn.bench.engines.engine import Engine, Prepared, no_such_cache, package_version


def prepare(case: Case, threads: int) -> Prepared:
    """Make tensors that share NumPy's memory; a ready-made mask where there is no option."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    options: dict[str, Any] = {"enable_gqa": case.heads != case.kv_heads}
    # Its is_causal aligns the first query with the first key.
    if case.asks() == {"causal"} and case.queries == case.keys:
        options["is_causal"] = True
    elif case.asks():
        bias = masks.added(case)
        mask = masks.visible(case) if bias is None else masks.additive(case)
        options["attn_mask"] = torch.from_numpy(mask)
    function = torch.nn.functional.scaled_dot_product_attention
    tensors = [[_tensor(torch, x) for x in arrays] for arrays in case.inputs()]
    return Prepared([partial(function, *each, **options) for each in tensors], read=_read)


def _tensor(torch: Any, array: Array) -> Any:
    if array.dtype.name == "bfloat16":  # the same bits by another name
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _read(result: Any) -> Array:
    array: Array = (result.float() if result.itemsize == 2 else result).numpy()
    return array


def refuses(case: Case) -> str | None:
    """Say what a mask cannot express."""
    if case.softcap is not None:
        return "no softcap"
    return "no sinks" if case.sinks else no_such_cache(case)


def versions() -> dict[str, str]:
    """Name torch."""
    return package_version("torch", "torch")


ENGINE = Engine(prepare, versions, refuses, ("torch",))
