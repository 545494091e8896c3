"""One sequence of a paged cache: its pages, and how an append changes them."""

from array import array
from typing import NamedTuple

from cpuattn.cache.kv_arrays import Move
from cpuattn.cache.page_pool import PagePool


class Sequence(NamedTuple):
    """Token t lies in row t % page_size of pages[t // page_size]; no page is without tokens.

    It never changes, nor do its pages: methods give another one.
    """

    # 64-bit integers that NumPy reads where they lie.
    pages: "array[int]"
    length: int = 0
    last_tokens: int = -1  # of the last append, padding included; -1 where there is none to recall
    last_start: int = 0
    # How often rows were given up: rows read before last as long as the epoch does.
    epoch: int = 0

    def start(self, queries: int) -> int:
        """Position of query 0: where the last append began if it was as long, else at the end."""
        return self.last_start if queries == self.last_tokens else self.length - queries

    def truncated(self, n: int, page_size: int) -> "tuple[Sequence, array[int]]":
        """Keep the first n tokens; also give the pages that held only others."""
        kept = -(-n // page_size)
        return Sequence(self.pages[:kept], n, epoch=self.epoch + 1), self.pages[kept:]


class Growth:
    """An append of `count` tokens to a sequence, in rows that no sequence uses.

    Parameters
    ----------
    sequence : Sequence
    count : int
    page_size : int
    pool : PagePool
        A last page that is not full is copied if others hold it too.
    """

    def __init__(self, sequence: Sequence, count: int, page_size: int, pool: PagePool) -> None:
        self._sequence, self._count, self._page_size = sequence, count, page_size
        filled = sequence.length % page_size
        copied = bool(count and filled and pool.is_shared(sequence.pages[-1]))
        self._kept = len(sequence.pages) - copied
        self.released = sequence.pages[self._kept :]
        # Free pages that this takes.
        self.needed = -(-(sequence.length + count) // page_size) - self._kept

    def grown(self, new: list[int], tokens: int) -> Sequence:
        """Give the sequence after an append of `tokens`, padding included, with these new pages."""
        old = self._sequence
        pages = old.pages
        if new:
            pages = pages[: self._kept]
            pages.extend(new)
        epoch = old.epoch + bool(self.released)
        return Sequence(pages, old.length + self._count, tokens, old.length, epoch)

    def copies(self, new: list[int]) -> list[Move]:
        """Say which rows of the cache move into the new pages."""
        rows = self._sequence.length % self._page_size
        return [(new[0], 0, page, 0, rows) for page in self.released]

    def moves(self, grown: Sequence, entry: int) -> list[Move]:
        """Say which rows the tokens of an entry go to."""
        size, moves, done = self._page_size, [], 0
        while done < self._count:
            page, row = divmod(self._sequence.length + done, size)
            end = min(done + size - row, self._count)
            moves.append((grown.pages[page], row, entry, done, end))
            done = end
        return moves
