"""docs/caches.md: its table is what the caches allocate, and it names every method and option."""

import inspect
import re
from pathlib import Path

import pytest

import cpuattn

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "caches.md").read_text(encoding="utf-8")
SHAPES = ((2, 64), (8, 64), (8, 128), (32, 128))  # kv_heads, head_dim
TOKENS, LAYERS = 8192, 32


def bytes_per_token(kv_heads: int, head_dim: int, dtype: str) -> int:
    """Measure it on a cache, and check the formula of the page."""
    size = cpuattn.KVCache(1, kv_heads, head_dim, capacity=10, dtype=dtype).nbytes
    element = {"float32": 4, "float16": 2, "int8": 1}[dtype]
    scales = kv_heads * 2 * 4 if dtype == "int8" else 0
    assert size == 10 * (kv_heads * 2 * head_dim * element + scales)
    pages = cpuattn.PagedKVCache(5, 2, kv_heads, head_dim, dtype=dtype)
    assert pages.nbytes == size
    return size // 10


def test_table_of_memory() -> None:
    lines = []
    for kv_heads, head_dim in SHAPES:
        sizes = [bytes_per_token(kv_heads, head_dim, d) for d in ("float32", "float16", "int8")]
        whole = [f"{size * TOKENS * LAYERS / 2**30:.3f}" for size in sizes]
        cells = [f"{kv_heads} × {head_dim}", *(f"{size:,}" for size in sizes), *whole]
        lines.append("| " + " | ".join(cells) + " |")
    table = PAGE.partition("<!-- memory:begin -->\n")[2].partition("<!-- memory:end -->")[0]
    assert table.splitlines()[2:] == lines
    assert f"GiB for {TOKENS} tokens in {LAYERS} layers" in PAGE


@pytest.mark.parametrize("cache", [cpuattn.KVCache, cpuattn.PagedKVCache])
def test_every_method_is_on_the_page(cache: type) -> None:
    names = {name for name, value in vars(cache).items() if inspect.isfunction(value)}
    missing = {
        name for name in names if name[0] != "_" and not re.search(rf"(?<!\w){name}\b", PAGE)
    }
    assert missing == set()


def test_every_exception_is_on_the_page() -> None:
    for name in ("TypeError", "ValueError", "CacheFullError", "OutOfPagesError", "MemoryError"):
        assert f"| `{name}` |" in PAGE
