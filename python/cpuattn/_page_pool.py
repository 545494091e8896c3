"""Which pages are free, and how many sequences hold each of the others."""

from collections.abc import Iterable

from cpuattn._cache_errors import OutOfPagesError


class PagePool:
    """Free list and reference counts of pages 0 to num_pages - 1.

    Parameters
    ----------
    num_pages : int
        All of them free at first.
    """

    def __init__(self, num_pages: int) -> None:
        # The page freed last is taken first: it is the most likely one to be in a CPU cache.
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders = [0] * num_pages

    @property
    def free(self) -> int:
        """Number of free pages."""
        return len(self._free)

    def is_shared(self, page: int) -> bool:
        """Tell whether several sequences hold the page."""
        return self._holders[page] > 1

    def take(self, count: int) -> list[int]:
        """Take free pages for one holder each, or raise OutOfPagesError and take none."""
        if count > len(self._free):
            raise OutOfPagesError(
                f"{count} more pages needed, but only {len(self._free)} of "
                f"{len(self._holders)} are free"
            )
        taken = [self._free.pop() for _ in range(count)]
        self.share(taken)
        return taken

    def share(self, pages: Iterable[int]) -> None:
        """Count one more holder of each page."""
        for page in pages:
            self._holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Count one holder of each page less; a page without holders is free."""
        for page in pages:
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)
