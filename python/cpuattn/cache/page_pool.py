"""Which pages are free, and how many sequences hold each other page."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpuattn.cache.errors import OutOfPagesError


class PagePool(NamedTuple):
    """Free pages and those that several sequences hold. It never changes: methods give another."""

    num_pages: int
    # Taken from the end. The page freed last is taken first: it most likely is in a CPU cache.
    free: NDArray[np.int64]
    shared: dict[int, int]  # holders of each page that has more than one

    @classmethod
    def all_free(cls, num_pages: int) -> "PagePool":
        """Begin with pages 0 to num_pages - 1."""
        return cls(num_pages, np.arange(num_pages - 1, -1, -1), {})

    def is_shared(self, page: int) -> bool:
        """Tell whether several sequences hold the page."""
        return page in self.shared

    def take(self, count: int) -> tuple[list[int], "PagePool"]:
        """Take free pages for one holder each, or raise OutOfPagesError."""
        if not count:
            return [], self
        left = len(self.free) - count
        if left < 0:
            raise OutOfPagesError(
                f"{count} more pages needed, but only {len(self.free)} of {self.num_pages} are free"
            )
        return self.free[left:][::-1].tolist(), self._replace(free=self.free[:left])

    def share(self, pages: Iterable[int]) -> "PagePool":
        """Count one more holder of each page."""
        shared = dict(self.shared)
        for page in pages:
            shared[page] = shared.get(page, 1) + 1
        return self._replace(shared=shared)

    def release(self, pages: Iterable[int]) -> "PagePool":
        """Count one holder of each page less; a page without holders is free."""
        shared, freed = dict(self.shared), []
        for page in pages:
            holders = shared.pop(page, 1) - 1
            if holders > 1:
                shared[page] = holders
            elif not holders:
                freed.append(page)
        free = np.concatenate([self.free, np.array(freed, np.int64)]) if freed else self.free
        return self._replace(free=free, shared=shared)
