"""The machine that a run was made on."""

import os
import platform
from pathlib import Path

import cpuattn


def describe() -> dict[str, str | int]:
    """Say what decides the times: processor, how many CPUs, memory, system."""
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cpus(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def load() -> float:
    """Tell how many processes have wanted to run in the last minute, on average."""
    return os.getloadavg()[0]


def must_hold(isa: str) -> bool:
    """Tell whether the peers must be held to what cpuattn is: AVX2 on a CPU that has more."""
    return isa == "avx2" and cpuattn.isas()[0] != "avx2"


def _cpus() -> int:
    return os.cpu_count() or 1


def _cpu_model() -> str:
    """Find the name of the processor, and its generation: hosts in a cloud may hide the number."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    fields = {name.strip(): text.strip() for name, _, text in (x.partition(":") for x in lines)}
    if "model name" not in fields:  # as on Arm
        return platform.processor() or platform.machine()
    generation = [f"{name} {fields[name]}" for name in ("cpu family", "model") if name in fields]
    return (
        f"{fields['model name']} ({', '.join(generation)})" if generation else fields["model name"]
    )
