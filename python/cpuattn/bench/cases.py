"""What is computed: shapes and options, their inputs, exact results and amounts of work."""

import dataclasses
import fnmatch
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Lengths of eight sentences in a batch of 128 tokens: 57 % of the batch is not padding.
SENTENCES = (128, 117, 96, 80, 64, 45, 32, 21)


@dataclasses.dataclass(frozen=True)
class Case:
    """One attention call; the letters of its shape are those of `cpuattn.attention`."""

    name: str
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    dtype: str = "float32"
    causal: bool = False
    window: tuple[int, int] | None = None
    key_lengths: tuple[int, ...] | None = None
    # Different keys and values that the calls go through in turn. With several, more bytes than
    # the caches hold, they come from memory: as in a model, where other layers lie in between.
    sets: int = 1

    def title(self) -> str:
        """Say the shape and the options in words."""
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        length = f"{self.queries}"
        if self.queries != self.keys:
            length += f" over {self.keys}"
        words = [f"{self.batch} × {heads} × {length} × {self.head_dim}"]
        if self.causal:
            words.append("causal")
        if self.window is not None:
            words.append(f"window {sum(self.window) + 1}")
        if self.key_lengths is not None:
            words.append(f"{min(self.key_lengths)} to {max(self.key_lengths)} keys")
        return ", ".join(words)

    def inputs(self) -> list[tuple[Array, Array, Array]]:
        """Make query, key and value, `sets` times, the same ones in every process."""
        rng = np.random.default_rng(0)
        query = self._normal(rng, self.heads, self.queries)
        sets = []
        for _ in range(self.sets):
            key = self._normal(rng, self.kv_heads, self.keys)
            sets.append((query, key, self._normal(rng, self.kv_heads, self.keys)))
        return sets

    def _normal(self, rng: np.random.Generator, heads: int, length: int) -> Array:
        shape = self.batch, heads, length, self.head_dim
        return rng.standard_normal(shape, np.float32).astype(self.dtype)

    def options(self) -> dict[str, Any]:
        """Give the options as `cpuattn.attention` takes them."""
        named = {"causal": self.causal, "window": self.window, "key_lengths": self.key_lengths}
        return {name: option for name, option in named.items() if option not in (None, False)}

    def visible(self) -> NDArray[np.bool_] | None:
        """Make the mask that says the same as the options, (B or 1, 1, Lq or 1, Lk).

        For engines that know no such option. None if every query sees every key.
        """
        mask = np.ones((1, 1, 1, self.keys), bool)
        key = np.arange(self.keys)
        query = np.arange(self.queries)[:, None] + self.keys - self.queries
        if self.causal:
            mask = mask & (key <= query)
        if self.window is not None:
            left, right = self.window
            mask = mask & (key >= query - left) & (key <= query + right)
        if self.key_lengths is not None:
            mask = mask & (key < np.reshape(self.key_lengths, (-1, 1, 1, 1)))
        return None if mask.all() else mask

    def flops(self) -> int:
        """Count the operations on pairs of a query and a key that it sees.

        Two products of 2 D operations each: what the call asks for. An engine that computes more
        and masks it gets no credit for it.
        """
        mask = self.visible()
        shape = self.batch, 1, self.queries, self.keys
        pairs = math.prod(shape) if mask is None else int(np.broadcast_to(mask, shape).sum())
        return 4 * pairs * self.heads * self.head_dim

    def exact(self) -> NDArray[np.float64]:
        """Compute the result on the first set in float64, head by head to save memory."""
        first = dataclasses.replace(self, sets=1).inputs()[0]
        query, key, value = (x.astype(np.float64) for x in first)
        group = self.heads // self.kv_heads
        mask = self.visible()
        result = np.empty_like(query)
        for b, h in np.ndindex(self.batch, self.heads):
            scores = query[b, h] @ key[b, h // group].T / math.sqrt(self.head_dim)
            if mask is not None:
                scores = np.where(mask[b % len(mask), 0], scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            result[b, h] = weights @ value[b, h // group] / weights.sum(axis=-1, keepdims=True)
        return result


CASES = (
    Case("tiny-1", 1, 1, 1, 16, 16, 64),
    Case("tiny-8", 1, 8, 8, 16, 16, 64),
    Case("one-head", 1, 1, 1, 64, 64, 64),
    Case("prefill-512", 1, 8, 8, 512, 512, 64),
    Case("prefill-1024", 1, 8, 8, 1024, 1024, 64),
    Case("prefill-2048", 1, 8, 8, 2048, 2048, 64),
    Case("prefill-2048-d128", 1, 8, 8, 2048, 2048, 128),
    Case("causal-2048", 1, 8, 8, 2048, 2048, 64, causal=True),
    Case("window-2048", 1, 8, 8, 2048, 2048, 64, window=(255, 0)),
    Case("gqa-1024", 1, 32, 8, 1024, 1024, 128),
    Case("bert-ragged", 8, 12, 12, 128, 128, 64, key_lengths=SENTENCES),
    Case("decode-4096", 1, 32, 8, 1, 4096, 128, sets=4),
)
QUICK = ("tiny-8", "one-head", "prefill-512", "prefill-1024", "bert-ragged", "decode-4096")


def select(patterns: Iterable[str]) -> list[Case]:
    """Choose cases by names with ``*`` and ``?``, in the order of `CASES`.

    Raises
    ------
    ValueError
        If a pattern fits no case.
    """
    chosen = set()
    for pattern in patterns:
        names = {case.name for case in CASES if fnmatch.fnmatchcase(case.name, pattern)}
        if not names:
            known = ", ".join(case.name for case in CASES)
            raise ValueError(f"no case is called {pattern!r}; there are {known}")
        chosen |= names
    return [case for case in CASES if case.name in chosen]
