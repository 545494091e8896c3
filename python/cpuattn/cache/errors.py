"""What is raised when a cache has no room; the cache is then as it was."""


class CacheFullError(MemoryError):
    """No room for the tokens of an `append` or `fork` call, which changed nothing."""


class OutOfPagesError(CacheFullError):
    """A `PagedKVCache` has fewer free pages than a call needs; the call changed nothing."""
