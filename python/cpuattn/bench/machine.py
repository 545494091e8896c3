"""The machine that a run was made on."""

import os
import platform
from pathlib import Path


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


def _cpus() -> int:
    return os.cpu_count() or 1


def _cpu_model() -> str:
    """Find the name of the processor; Linux on Arm gives none."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        field, _, text = line.partition(":")
        if field.strip() == "model name":
            return text.strip()
    return platform.processor() or platform.machine()
