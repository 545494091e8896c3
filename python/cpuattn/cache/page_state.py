"""All that changes in a paged cache, as one value: its memory, its sequences and its free pages."""

from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from numpy.typing import ArrayLike

from cpuattn._arrays import as_integers
from cpuattn._checks import check_size
from cpuattn.cache.kv_arrays import KVArrays, Move
from cpuattn.cache.page_pool import PagePool
from cpuattn.cache.page_sequence import Growth, Sequence


class PageState(NamedTuple):
    """The sequences of a cache at one moment. It never changes: each method gives another one.

    Rows that no sequence uses are written before the state that uses them is committed, so all
    states share the arrays.
    """

    arrays: KVArrays
    sequences: Mapping[int, Sequence]
    pool: PagePool
    next_id: int = 0

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self.arrays.capacity

    def named(self, sequence: Sequence) -> "PageState":
        """Give a new sequence the next id; its pages are held once more."""
        return self._replace(
            sequences={**self.sequences, self.next_id: sequence},
            pool=self.pool.share(sequence.pages) if sequence.pages else self.pool,
            next_id=self.next_id + 1,
        )

    def grown(
        self, seq_ids: list[int], counts: list[int], tokens: int
    ) -> "tuple[PageState, list[Move], list[Move]]":
        """Append to sequences, or raise OutOfPagesError.

        Returns
        -------
        state : PageState
        copies : list of Move
            Rows that move within the arrays first.
        moves : list of Move
            Rows that the tokens go to.
        """
        growths = [
            Growth(self.sequences[seq_id], count, self.page_size, self.pool)
            for seq_id, count in zip(seq_ids, counts, strict=True)
        ]
        new, pool = self.pool.take(sum(growth.needed for growth in growths))
        sequences, copies, moves, first = dict(self.sequences), [], [], 0
        for entry, (seq_id, growth) in enumerate(zip(seq_ids, growths, strict=True)):
            own = new[first : first + growth.needed]
            first += growth.needed
            sequences[seq_id] = growth.grown(own, tokens)
            if growth.released:
                copies += growth.copies(own)
                pool = pool.release(growth.released)
            moves += growth.moves(sequences[seq_id], entry)
        return self._replace(sequences=sequences, pool=pool), copies, moves

    def truncated(self, seq_id: int, n: int) -> "PageState":
        """Keep the first n tokens of a sequence."""
        sequence, released = self.sequences[seq_id].truncated(n, self.page_size)
        return self._replace(
            sequences={**self.sequences, seq_id: sequence}, pool=self.pool.release(released)
        )

    def without(self, seq_id: int) -> "PageState":
        """Forget a sequence."""
        sequences = dict(self.sequences)
        released = sequences.pop(seq_id).pages
        return self._replace(sequences=sequences, pool=self.pool.release(released))

    def writeable(self) -> "PageState":
        """Have arrays that may be written: joblib hands out some that may not."""
        if self.arrays.writeable:
            return self
        pages, size = len(self.arrays.keys), self.page_size
        everything = [(page, 0, page, 0, size) for page in range(pages)]
        return self._replace(arrays=self.arrays.moved(everything, pages, size))

    def undone(self, seq_ids: Iterable[int]) -> "PageState":
        """Give a state like this one, to go back to from the append after it."""
        sequences = dict(self.sequences)
        for seq_id in seq_ids:
            # Of an append that copied a page the sequence has the next epoch.
            sequence = sequences[seq_id]
            sequences[seq_id] = sequence._replace(epoch=sequence.epoch + 2)
        return self._replace(sequences=sequences)

    def take_back(self, before: "PageState", after: "PageState", seq_ids: list[int]) -> "PageState":
        """Undo an append that was not the last one, but for sequences that changed since."""
        state = self
        for seq_id in seq_ids:
            old = before.sequences[seq_id]
            if state.sequences.get(seq_id) is after.sequences[seq_id]:
                state = state.truncated(seq_id, old.length)
                recalled = state.sequences[seq_id]._replace(
                    last_tokens=old.last_tokens, last_start=old.last_start
                )
                state = state._replace(sequences={**state.sequences, seq_id: recalled})
        return state


def empty_sequence() -> Sequence:
    """Begin without tokens."""
    return Sequence(array("q"))


def known_id(state: PageState, seq_id: int) -> int:
    """Return the id of a sequence, or raise TypeError or ValueError."""
    seq_id = check_size("seq_id", seq_id, at_least=0)
    if seq_id not in state.sequences:
        raise ValueError(f"seq_id: there is no sequence {seq_id}")
    return seq_id


def known_ids(state: PageState, seq_ids: ArrayLike) -> list[int]:
    """Return ids of sequences, or raise TypeError or ValueError."""
    array = as_integers(seq_ids, "seq_ids")
    if array.ndim != 1 or not array.size:
        raise ValueError(f"seq_ids must have shape (n,) with n > 0, got {array.shape}")
    ids: list[int] = array.tolist()
    for seq_id in ids:
        if seq_id not in state.sequences:
            raise ValueError(f"seq_ids: there is no sequence {seq_id}")
    return ids
