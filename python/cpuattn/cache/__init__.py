"""Keys and values of past tokens, contiguous or in pages."""

from cpuattn.cache.errors import CacheFullError, OutOfPagesError
from cpuattn.cache.kv_cache import KVCache
from cpuattn.cache.paged import PagedKVCache

__all__ = ["CacheFullError", "KVCache", "OutOfPagesError", "PagedKVCache"]
