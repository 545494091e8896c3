"""torch: `torch.nn.functional.scaled_dot_product_attention`."""

import importlib
from functools import partial
from typing import Any

from cpuattn.bench import masks
from cpuattn.bench.case import Case
from cpuattn.bench.engines.engine import Engine, Prepared, package_version


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
    tensors = [map(torch.from_numpy, arrays) for arrays in case.inputs()]
    return Prepared([partial(function, *each, **options) for each in tensors])


def refuses(case: Case) -> str | None:
    """Say what a mask cannot express."""
    return "no softcap" if case.softcap is not None else "no sinks" if case.sinks else None


def versions() -> dict[str, str]:
    """Name torch."""
    return package_version("torch", "torch")


ENGINE = Engine(prepare, versions, refuses, ("torch",))
