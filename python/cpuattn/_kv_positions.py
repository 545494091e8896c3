"""Which tokens a KV cache holds, and where: positions are tokens, rows are memory."""

from cpuattn._checks import check_size


class Positions:
    """Lengths of the batch entries, and what each has dropped from its window.

    Of its lengths[b] tokens entry b holds all but dropped[b] that left the window. The first
    `sinks` tokens are never dropped: they lie in the rows of their positions, and every other
    token lies dropped[b] rows before its own.

    Parameters
    ----------
    batch : int
        B.
    window : int, optional
        Keys that a query sees, its own included.
    sinks : int
        First tokens that every query sees besides.
    """

    def __init__(self, batch: int, window: int | None, sinks: int) -> None:
        self.window = None if window is None else check_size("window", window, at_least=1)
        self.sinks = check_size("sink_tokens", sinks, at_least=0)
        if self.sinks and window is None:
            raise ValueError(f"sink_tokens={sinks} needs a window: without one nothing is dropped")
        # Lists, because batches are small and a NumPy call costs more than a few integers.
        # They are replaced and never changed in place, so that copies may share them.
        self.lengths = [0] * batch
        self.dropped = [0] * batch
        self._last_tokens = -1
        self._last_starts = self.lengths

    def held(self) -> list[int]:
        """Tokens held by each entry."""
        if self.window is None:
            return self.lengths
        return [n - d for n, d in zip(self.lengths, self.dropped, strict=True)]

    def advance(self, counts: list[int], tokens: int) -> None:
        """Count the tokens of an append of so many, of which counts[b] are no padding."""
        self._last_tokens, self._last_starts = tokens, self.lengths
        if len(counts) == 1:
            self.lengths = [self.lengths[0] + counts[0]]
        else:
            self.lengths = [n + count for n, count in zip(self.lengths, counts, strict=True)]

    def starts(self, queries: int) -> list[int]:
        """Position of the first of so many queries: those of the last append, or the last ones."""
        if queries == self._last_tokens:
            return self._last_starts
        return [n - queries for n in self.lengths]

    def kept(self, held: list[int]) -> tuple[list[int], list[int]]:
        """How many of the first and of the last tokens held the next token and later ones see."""
        if self.window is None:
            return [0] * len(held), held
        first = [min(n, self.sinks) for n in held]
        # The next token sees itself and the window - 1 tokens before it.
        last = [min(n - f, self.window - 1) for n, f in zip(held, first, strict=True)]
        return first, last

    def drop_all_but(self, kept: list[int]) -> None:
        """Note that each entry now holds so many tokens."""
        self.dropped = [n - k for n, k in zip(self.lengths, kept, strict=True)]

    def truncate(self, lengths: list[int]) -> None:
        """Take back all but the first lengths[b] tokens, or raise ValueError."""
        for entry, (new, old) in enumerate(zip(lengths, self.lengths, strict=True)):
            if not 0 <= new <= old:
                raise ValueError(f"n must be from 0 to the length of the entry, {old}, got {new}")
            if self.sinks < new < old:
                self.check("n", entry, new)
        self.dropped = [
            0 if new <= self.sinks else d for d, new in zip(self.dropped, lengths, strict=True)
        ]
        self.lengths = lengths
        self._last_tokens = -1

    def reorder(self, entries: list[int]) -> None:
        """Let entry i take the place of entries[i]."""
        self.lengths = [self.lengths[entry] for entry in entries]
        self.dropped = [self.dropped[entry] for entry in entries]
        self._last_starts = [self._last_starts[entry] for entry in entries]

    def check(self, name: str, entry: int, position: int) -> None:
        """Raise ValueError if a query at this position would see a token that was dropped."""
        first = self.sinks + self.dropped[entry]
        if self.window is not None and position - (self.window - 1) < first > self.sinks:
            raise ValueError(
                f"{name}: a token at position {position} of entry {entry} sees {self.window} keys, "
                f"but those before position {first} left the window"
            )
