"""What the two transformers have in common: layers in NumPy, and attention that can be swapped.

Letters: L tokens, C width (features of a token), H heads, D = C / H features of a head.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Attention = Callable[..., Array]


class Timed:
    """An attention function whose calls are counted and timed.

    Parameters
    ----------
    function : callable
        ``cpuattn.attention`` or ``cpuattn.reference.attention_numpy``.
    """

    def __init__(self, function: Attention) -> None:
        self._function = function
        self.calls = 0
        self.seconds = 0.0

    def __call__(self, query: Array, key: Array, value: Array, *, causal: bool = False) -> Array:
        """Attend with the function: (..., H, L, D) in and out."""
        start = time.perf_counter()
        out = self._function(query, key, value, causal=causal)
        self.seconds += time.perf_counter() - start
        self.calls += 1
        return out


def layer_norm(x: Array, gain: Array, bias: Array, epsilon: float) -> Array:
    """Give every token mean 0 and variance 1, then scale and shift its features."""
    x = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(x * x, axis=-1, keepdims=True)
    x /= np.sqrt(variance + np.float32(epsilon))
    x *= gain
    x += bias
    return x


def split_heads(x: Array, heads: int) -> Array:
    """View (..., L, C) as (..., H, L, D). cpuattn reads such a view where it lies."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)


def join_heads(x: Array) -> Array:
    """Put the heads of a token side by side again, (..., H, L, D) -> (..., L, C)."""
    *lead, heads, length, head_dim = x.shape
    return x.swapaxes(-2, -3).reshape(*lead, length, heads * head_dim)
