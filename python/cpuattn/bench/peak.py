"""The most that this machine can compute: multiply-adds and nothing else."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cpuattn import _core


def fma_peak(dtype: str, threads: int, seconds: float) -> float:
    """Measure the multiply-add rate of the instruction set in use.

    Parameters
    ----------
    dtype : str
        "float32" or "float64".
    threads : int
        How many run at once; their rates are added.
    seconds : float
        How long.

    Returns
    -------
    float
        GFLOP/s; a multiply-add is two operations.
    """
    size = np.dtype(dtype).itemsize
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(_core._fma_peak, [size] * threads, [seconds] * threads))  # noqa: SLF001
