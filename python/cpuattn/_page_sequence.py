"""One sequence of a paged cache: its pages, and how an append changes them."""

from array import array
from dataclasses import dataclass, field, replace

from cpuattn._kv_arrays import KVArrays, Move
from cpuattn._page_pool import PagePool


@dataclass
class Sequence:
    """Token t lies in row t % page_size of pages[t // page_size]; no page is without tokens."""

    # 64-bit integers that NumPy reads where they lie.
    pages: "array[int]" = field(default_factory=lambda: array("q"))
    length: int = 0
    last_tokens: int = -1  # of the last append, padding included; -1 where there is none to recall
    last_start: int = 0

    def fork(self) -> "Sequence":
        """Give a sequence of the same tokens in the same pages."""
        return replace(self, pages=self.pages[:])

    def start(self, queries: int) -> int:
        """Position of the first of so many queries: those of the last append, or the last ones."""
        return self.last_start if queries == self.last_tokens else self.length - queries


@dataclass
class Growth:
    """An append of `count` tokens to a sequence, to be written first and then committed.

    Until then the sequence is as it was: tokens go to rows that it does not use yet, and a last
    page that others hold too is copied.
    """

    sequence: Sequence
    count: int
    page_size: int
    pool: PagePool

    def __post_init__(self) -> None:
        filled = self.sequence.length % self.page_size
        copied = self.count and filled and self.pool.is_shared(self.sequence.pages[-1])
        self._kept = len(self.sequence.pages) - bool(copied)
        self._pages = self.sequence.pages[: self._kept]

    @property
    def needed(self) -> int:
        """Free pages that this takes."""
        return -(-(self.sequence.length + self.count) // self.page_size) - self._kept

    def prepare(self, new: list[int], arrays: KVArrays, entry: int) -> list[Move]:
        """Have these new pages; say which rows of them the tokens of an entry go to."""
        sequence, size = self.sequence, self.page_size
        self._pages.extend(new)
        if self._kept < len(sequence.pages):
            rows = slice(sequence.length % size)
            for pages in arrays.every:
                pages[new[0], :, rows] = pages[sequence.pages[-1], :, rows]
        moves, done = [], 0
        while done < self.count:
            page, row = divmod(sequence.length + done, size)
            end = min(done + size - row, self.count)
            moves.append((self._pages[page], row, entry, done, end))
            done = end
        return moves

    def commit(self, tokens: int) -> None:
        """Let the sequence have the tokens that were written, of an append of so many."""
        sequence = self.sequence
        self.pool.release(sequence.pages[self._kept :])
        sequence.pages = self._pages
        sequence.last_tokens, sequence.last_start = tokens, sequence.length
        sequence.length += self.count
