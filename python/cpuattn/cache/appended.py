"""An append whose tokens a caller needs only if its own work succeeds."""
# ruff: noqa: SLF001 (it reads and restores the states of a cache)

from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike, NDArray

from cpuattn import _core
from cpuattn.cache.paged import PagedKVCache


class Appended:
    """An append that is taken back when this object is dropped, unless an attempt succeeded.

    Parameters
    ----------
    cache : KVCache or PagedKVCache
    ids : (list of int,) or ()
        Sequences of a paged cache.
    """

    def __init__(self, cache: Any, ids: tuple[list[int], ...]) -> None:
        self._cache, self._ids = cache, ids

    def note(self, before: Any, after: Any) -> None:
        """Learn the states before and after, which is about to be committed."""
        self._before, self._after = before, after
        self._undo = _core.undo(self._cache, after, before.undone(*self._ids))

    def attempt(self, function: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what function() does; if it raises instead, take back the append."""
        others = self._take_back if isinstance(self._cache, PagedKVCache) else None
        result: NDArray[Any] = _core.attempt(self._undo, function, others)
        return result

    def _take_back(self) -> None:
        """Do so where other sequences have changed since."""
        self._cache._take_back(self._before, self._after, *self._ids)

    def attend(
        self, query: NDArray[Any], *, query_offset: ArrayLike | None = None, **options: Any
    ) -> None:
        """Attend to all tokens held after the append, whatever other threads add later."""
        self._cache._attend(self._after, *self._ids, query, query_offset, options)
        if not self._cache._lasts(self._after, *self._ids):
            raise RuntimeError(
                "cache: another thread took back tokens that this call attended to; "
                "give each thread a cache, or sequences, of its own"
            )
