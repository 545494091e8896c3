"""The most that this machine can do: multiply-adds and nothing else, reads and nothing else."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpuattn import _core

# Several times what the last level of the largest caches holds for one processor.
READ_BYTES = 512 << 20


def fma_peak(dtype: str, threads: int, seconds: float) -> float:
    """Measure the multiply-add rate of the instruction set in use.

    Parameters
    ----------
    dtype : str
        Of the numbers; narrow ones are multiplied in float32 where the instruction set has no
        products of their own.
    threads : int
        How many run at once; their rates are added.
    seconds : float
        How long.

    Returns
    -------
    float
        GFLOP/s; a multiply-add is two operations.
    """
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(_core._fma_peak, [dtype] * threads, [seconds] * threads))  # noqa: SLF001


def read_peak(threads: int, seconds: float) -> float:
    """Measure the rate of reads from memory, each thread in a part of its own.

    Parameters
    ----------
    threads : int
        How many run at once; their rates are added.
    seconds : float
        How long, at least: a thread reads its part to the end.

    Returns
    -------
    float
        GB/s.
    """
    parts = np.array_split(_far_larger_than_caches(), threads)
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(_core._read_rate, parts, [seconds] * threads))  # noqa: SLF001


@functools.cache
def _far_larger_than_caches() -> NDArray[Any]:
    return np.ones(READ_BYTES // 4, np.float32)  # zeros would all be one page
