"""All that changes in a KV cache, as one value: its memory, and which tokens lie where in it."""

from operator import add, sub
from typing import NamedTuple

from cpuattn import _core
from cpuattn.cache.errors import CacheFullError
from cpuattn.cache.kv_arrays import KVArrays, Move

Counts = tuple[int, ...]  # one of each batch entry


class Limits(NamedTuple):
    """What a cache keeps: the tokens that a window shows, in so much memory."""

    window: int | None  # keys that a query sees, its own included
    sinks: int  # first tokens that every query sees besides
    max_capacity: int | None  # rows that no entry may ever exceed


class KVState(NamedTuple):
    """The tokens of a cache at one moment. It never changes: each method gives another one.

    Entry b has lengths[b] tokens and holds all but dropped[b] of them. The first `sinks` tokens
    are never dropped: they lie in the rows of their positions, and every other token lies
    dropped[b] rows before its own. Rows behind those held are written before the state that
    counts them is committed, so arrays may be shared by states. All other rows stay unchanged:
    where tokens must move, they move into new arrays.
    """

    arrays: KVArrays
    limits: Limits
    lengths: Counts
    dropped: Counts
    # First position behind the sinks that a query may see. An append lets go of what neither its
    # tokens see nor the one before it, whether or not that leaves memory: see kv_state.cpp.
    seen_from: Counts
    last_tokens: int = -1  # of the last append, padding included; -1: there is none to recall
    last_starts: Counts = ()  # where that append began
    # Truncations so far: the rows of a state last as long as the states after it have its epoch.
    epoch: int = 0

    @classmethod
    def empty(cls, arrays: KVArrays, limits: Limits) -> "KVState":
        """Begin without tokens."""
        zeros = (0,) * len(arrays.keys)
        return cls(arrays, limits, zeros, zeros, zeros)

    def held(self) -> Counts:
        """Tokens held by each entry: rows in use."""
        if self.limits.window is None:
            return self.lengths
        return tuple(map(sub, self.lengths, self.dropped))

    def appended(self, counts: Counts, tokens: int) -> "KVState":
        """Count the tokens of an append; counts[b] of them are no padding in entry b."""
        after: KVState = _core.appended_state(self, counts, tokens)
        return after

    def starts(self, queries: int) -> Counts:
        """Position of query 0: where the last append began if it was as long, else at the end."""
        if queries == self.last_tokens:
            return self.last_starts
        return tuple(n - queries for n in self.lengths)

    def check(self, name: str, entry: int, position: int) -> None:
        """Raise ValueError if a query at this position would see a token that left the window."""
        window, sinks, _ = self.limits
        first = self.seen_from[entry]
        if window is not None and first > max(sinks, position - (window - 1)):
            raise ValueError(
                f"{name}: a token at position {position} of entry {entry} sees {window} keys, "
                f"but those before position {first} left the window"
            )

    def with_room(self, counts: Counts) -> "KVState":
        """Have room for counts[b] more tokens in each entry b, or raise CacheFullError."""
        held, capacity = self.held(), self.arrays.capacity
        fits = max(map(add, held, counts)) <= capacity
        if fits and self.arrays.writeable:
            return self
        first, last = self._kept(held, counts)
        kept = tuple(map(add, first, last))
        needed = tuple(map(add, kept, counts))
        self._check_limit(needed, counts)
        wanted = self._wanted(first, last, counts)
        heads = [(entry, 0, entry, 0, n) for entry, n in enumerate(first)]
        tails = [
            (entry, f, entry, n - k, n)
            for entry, (n, f, k) in enumerate(zip(held, first, last, strict=True))
        ]
        rows = capacity if fits else max(capacity, wanted)
        arrays = self.arrays.moved(heads + tails, len(held), rows)
        return self._replace(arrays=arrays, dropped=tuple(map(sub, self.lengths, kept)))

    def _kept(self, held: Counts, counts: Counts) -> tuple[Counts, Counts]:
        """How many of the first and of the last tokens held are still seen after an append."""
        window, sinks, _ = self.limits
        if window is None:
            return (0,) * len(held), held
        first = tuple(min(n, sinks) for n in held)
        each = zip(held, first, self.lengths, self.appended(counts, 0).seen_from, strict=True)
        return first, tuple(min(h - f, n - seen) for h, f, n, seen in each)

    def _wanted(self, first: Counts, last: Counts, counts: Counts) -> int:
        """Rows with room for the moving tokens once more: they move again after as many appends."""
        window, _, limit = self.limits
        most = max(last) if window is None else window - 1
        moving = tuple(min(n, most) for n in last)
        once = max(map(sum, zip(first, last, counts, strict=True)))
        twice = max(map(sum, zip(first, moving, counts, strict=True))) + max(moving)
        wanted = max(once, twice)
        return wanted if limit is None else min(wanted, limit)

    def _check_limit(self, needed: Counts, counts: Counts) -> None:
        limit = self.limits.max_capacity
        for entry, (rows, count) in enumerate(zip(needed, counts, strict=True)):
            if limit is not None and rows > limit:
                raise CacheFullError(
                    f"key: with {count} more tokens entry {entry} would hold {rows}, "
                    f"but max_capacity is {limit}"
                )

    def truncated(self, lengths: Counts) -> "KVState":
        """Take back all but the first lengths[b] tokens, or raise ValueError."""
        sinks = self.limits.sinks
        for entry, (new, old) in enumerate(zip(lengths, self.lengths, strict=True)):
            if not 0 <= new <= old:
                raise ValueError(f"n must be from 0 to the length of the entry, {old}, got {new}")
            if sinks < new < old:
                self.check("n", entry, new)

        def restarted(counts: Counts) -> Counts:
            """Forget what left the window where only sinks are left."""
            return tuple(0 if n <= sinks else c for c, n in zip(counts, lengths, strict=True))

        return self._replace(
            lengths=lengths,
            dropped=restarted(self.dropped),
            seen_from=restarted(self.seen_from),
            last_tokens=-1,
            epoch=self.epoch + 1,
        )

    def reordered(self, entries: list[int]) -> "KVState":
        """Copy these entries, in this order, into new arrays of the same capacity."""

        def chosen(counts: Counts) -> Counts:
            return tuple(counts[entry] for entry in entries) if counts else counts

        moves: list[Move] = [
            (target, 0, entry, 0, n)
            for target, (entry, n) in enumerate(zip(entries, chosen(self.held()), strict=True))
        ]
        return self._replace(
            arrays=self.arrays.moved(moves, len(entries), self.arrays.capacity),
            lengths=chosen(self.lengths),
            dropped=chosen(self.dropped),
            seen_from=chosen(self.seen_from),
            last_starts=chosen(self.last_starts),
        )

    def undone(self) -> "KVState":
        """Give a state like this one, to go back to from the append after it."""
        return self._replace(epoch=self.epoch + 1)
