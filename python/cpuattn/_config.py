"""What was compiled, what this CPU can run, and how many threads a call uses."""

import sys
import warnings

import numpy as np

from cpuattn import _core

if _ignored := _core.ignored_threads():
    warnings.warn(f"{_ignored} is no number of threads: ignored", RuntimeWarning, stacklevel=2)


def isas() -> list[str]:
    """Name the instruction sets that this CPU and build can run.

    Returns
    -------
    list of str
        Best first, among ``"avx512_bf16"`` (which multiplies bfloat16 and int8 natively),
        ``"avx512_vnni"`` (int8), ``"avx512"``, ``"avx2"``, ``"neon"`` and ``"scalar"``. The first
        one is used unless the environment variable ``CPUATTN_ISA`` names another.
    """
    return _core.isas()


def get_num_threads() -> int:
    """Tell how many threads a call may use.

    Returns
    -------
    int
        What `set_num_threads` set, else ``CPUATTN_NUM_THREADS``, else ``OMP_NUM_THREADS``, else
        the number of CPUs that this process may run on, or the CPU quota of its container (Linux
        control groups), rounded up, if that is smaller.
    """
    return _core.get_num_threads()


def set_num_threads(num_threads: int) -> None:
    """Set how many threads a call may use, in the whole process.

    Results do not depend on it, not even in their last bit.

    Parameters
    ----------
    num_threads : int
        At least 1. A small call uses fewer.

    Raises
    ------
    ValueError
        If `num_threads` is below 1.
    """
    _core.set_num_threads(num_threads)


def show_config() -> None:
    """Print versions, instruction sets and threads, for bug reports.

    Returns
    -------
    None
        ``python -m cpuattn info`` prints the same.
    """
    config = _core.config()
    lines = {
        "cpuattn": config["version"],
        "compiler": config["compiler"],
        "isas compiled": ", ".join(config["isas_compiled"]),
        "isas available": ", ".join(config["isas_available"]),
        "isa used": config["isa"],
        "threads": f"{config['num_threads']}, {config['threads_by']}",
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    for name, value in lines.items():
        print(f"{name:14} {value}")
