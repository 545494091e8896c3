"""The memory of a KV cache: arrays whose batch entries are filled from the left."""

from typing import Any

from numpy.typing import NDArray

from cpuattn._cache_errors import CacheFullError
from cpuattn._kv_arrays import KVArrays, Move


class KVBuffers:
    """Arrays of `capacity` rows per batch entry, replaced by larger ones when they are full.

    Parameters
    ----------
    arrays : KVArrays
        The first ones.
    max_capacity : int, optional
        Rows that no entry may ever exceed.
    """

    def __init__(self, arrays: KVArrays, max_capacity: int | None) -> None:
        self.arrays = arrays
        self.capacity: int = arrays.keys.shape[2]  # tokens that each entry has room for
        self.max_capacity = max_capacity

    def write(
        self, key: NDArray[Any], value: NDArray[Any], starts: list[int], counts: list[int]
    ) -> None:
        """Write the first counts[b] tokens of entry b to row starts[b] and on, for every b."""
        if len(starts) == 1:
            moves = [(0, starts[0], 0, 0, counts[0])]
        else:
            both = zip(starts, counts, strict=True)
            moves = [(entry, start, entry, 0, n) for entry, (start, n) in enumerate(both)]
        self.arrays.write(key, value, moves)

    def make_room(
        self, held: list[int], first: list[int], last: list[int], counts: list[int]
    ) -> None:
        """Keep the first and last so many of the held rows of each entry, and room for counts."""
        sizes = zip(first, last, counts, strict=True)
        for entry, needed in enumerate(map(sum, sizes)):
            if self.max_capacity is not None and needed > self.max_capacity:
                raise CacheFullError(
                    f"key: with {counts[entry]} more tokens entry {entry} would hold {needed}, "
                    f"but max_capacity is {self.max_capacity}"
                )
        kept = [f + n for f, n in zip(first, last, strict=True)]
        # Room for the moving tokens once more: they are copied again only when as many were added.
        wanted = max(last) + max(k + count for k, count in zip(kept, counts, strict=True))
        if self.max_capacity is not None:
            wanted = min(wanted, self.max_capacity)
        tails = [
            (entry, f, entry, n - k, n)
            for entry, (n, f, k) in enumerate(zip(held, first, last, strict=True))
        ]
        if wanted <= self.capacity:
            _copy(self.arrays, self.arrays, tails)
            return
        heads = [(entry, 0, entry, 0, f) for entry, f in enumerate(first)]
        self.arrays, self.capacity = self._moved(heads + tails, len(held), wanted), wanted

    def copy(self, entries: list[int], held: list[int]) -> "KVBuffers":
        """Copy so many rows of each of these entries into buffers of the same capacity."""
        moves = [
            (target, 0, entry, 0, n)
            for target, (entry, n) in enumerate(zip(entries, held, strict=True))
        ]
        return KVBuffers(self._moved(moves, len(entries), self.capacity), self.max_capacity)

    def _moved(self, moves: list[Move], batch: int, capacity: int) -> KVArrays:
        new = self.arrays.like(batch, capacity)
        _copy(self.arrays, new, moves)
        return new


def _copy(old: KVArrays, new: KVArrays, moves: list[Move]) -> None:
    for source, target in zip(old.every, new.every, strict=True):
        for entry, row, origin, start, end in moves:
            target[entry, :, row : row + end - start] = source[origin, :, start:end]
