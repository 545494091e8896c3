"""Who computes it: a file for each engine or family, and their list.

An engine turns a case into calls without arguments, ready to be timed (`engine.py`). Packages are
imported when it does, in its own process.
"""

import importlib.util

from cpuattn.bench.case import Case
from cpuattn.bench.engines import (
    jax_,
    numpy_,
    openvino_,
    openvino_stateful,
    ort_attention,
    ort_gqa,
    ort_mha,
    own,
    pure_python,
    torch_,
)
from cpuattn.bench.engines.engine import Call, Engine, Prepared
from cpuattn.bench.machine import must_hold

__all__ = ["ENGINES", "Call", "Engine", "Prepared", "installed", "why_not"]

# In the order of the tables.
ENGINES = {
    "pure Python": pure_python.ENGINE,
    "NumPy": numpy_.ENGINE,
    "torch": torch_.ENGINE,
    "JAX": jax_.ENGINE,
    "ORT Attention": ort_attention.ENGINE,
    "ORT MHA": ort_mha.ENGINE,
    "ORT GQA": ort_gqa.ENGINE,
    "OpenVINO": openvino_.ENGINE,
    "OpenVINO stateful": openvino_stateful.ENGINE,
    "cpuattn": own.ENGINE,
}


def installed() -> list[str]:
    """Name the engines that can run here, in the order of the tables."""
    return [
        name
        for name, engine in ENGINES.items()
        if all(importlib.util.find_spec(package) for package in engine.packages)
    ]


def why_not(name: str, case: Case, isa: str) -> str | None:
    """Say why an engine does not take part in a case; None if it does."""
    engine = ENGINES[name]
    if name not in installed():
        return "not installed"
    if must_hold(isa) and not engine.narrows:
        return "cannot be held to AVX2"
    return engine.refuses(case)
