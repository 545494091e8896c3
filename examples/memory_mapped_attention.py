"""Attention over keys and values that stay in a file: one pass, a piece at a time.

The keys and values of a long text may be larger than the memory you want to spend. Here they lie in
a file, one token after the other, as a cache would have written them:

    token 0: keys of all heads, values of all heads | token 1: keys, values | token 2: ...

The file is mapped a piece at a time. `cpuattn.attention` reads a piece where it lies (a view with
strides, not a copy) and returns its output and, with `return_lse`, the logarithm of the sum that
its softmax divided by. `cpuattn.merge_attention` joins what is known with what the piece adds:
exactly, in one pass, whatever the sizes. NumPy only.

    python examples/memory_mapped_attention.py --mib 4096 --folder /a/large/disk
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cpuattn

Array = NDArray[np.float32]

QUERY_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
TOKEN_SHAPE = (2, KV_HEADS, HEAD_DIM)  # a key and a value for each head
TOKEN_BYTES = 4 * 2 * KV_HEADS * HEAD_DIM
MIB = 2**20


def main() -> None:
    """Write a file, attend over it piece by piece, and compare with one call over everything."""
    args = parse()
    tokens = args.mib * MIB // TOKEN_BYTES
    query = np.random.default_rng(1).standard_normal((QUERY_HEADS, 4, HEAD_DIM), np.float32)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "keys_and_values.bin"
        write(path, tokens, args.piece)
        before = peak_mib()
        start = time.perf_counter()
        out, lse = attend(query, path, tokens, args.piece)
        seconds = time.perf_counter() - start
        pieces = -(-tokens // args.piece)
        print(
            f"{tokens} tokens, a file of {args.mib} MiB, in {pieces} pieces of "
            f"{args.piece * TOKEN_BYTES / MIB:.0f} MiB: {seconds:.2f} s"
        )
        print(f"peak memory: {peak_mib():.0f} MiB, {peak_mib() - before:.0f} MiB more than before")

        keys, values = heads(mapped(path, 0, tokens))
        whole, whole_lse = cpuattn.attention(query, keys, values, return_lse=True)
    print(f"peak memory of one call over the whole file: {peak_mib():.0f} MiB")
    # Values are of size 1, and each piece rounds once more.
    np.testing.assert_allclose(out, whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(lse, whole_lse, rtol=1e-6)
    print(f"one call over everything agrees within {np.abs(out - whole).max():.1e}")


def attend(query: Array, path: Path, tokens: int, piece: int) -> tuple[Array, Array]:
    """Attend from (Hq, Lq, D) over all tokens of the file; return output and log-sum-exp.

    All queries see all tokens here. With ``causal=True`` a piece that starts at token s would need
    ``query_offset=position - s``, where query 0 stands at `position` in the text.
    """
    # What a query knows before it has seen a key: nothing, with no weight.
    out, lse = np.zeros_like(query), np.full(query.shape[:2], -np.inf, np.float32)
    for start, stop in steps(tokens, piece):
        keys, values = heads(mapped(path, start, stop))
        part, part_lse = cpuattn.attention(query, keys, values, return_lse=True)
        out, lse = cpuattn.merge_attention([out, part], [lse, part_lse])
    return out, lse


def mapped(path: Path, start: int, stop: int) -> "np.memmap[Any, np.dtype[np.float32]]":
    """Map tokens [start, stop) of the file; they leave memory when the array is gone."""
    shape = (stop - start, *TOKEN_SHAPE)
    return np.memmap(path, np.float32, mode="r", offset=start * TOKEN_BYTES, shape=shape)


def heads(piece: Array) -> tuple[Array, Array]:
    """View (L, 2, Hkv, D) as keys and values of (Hkv, L, D)."""
    return piece[:, 0].swapaxes(0, 1), piece[:, 1].swapaxes(0, 1)


def steps(tokens: int, piece: int) -> Iterator[tuple[int, int]]:
    """Give the first and the last token, plus one, of each piece."""
    for start in range(0, tokens, piece):
        yield start, min(start + piece, tokens)


def write(path: Path, tokens: int, piece: int) -> None:
    """Fill the file with random numbers, a piece at a time too."""
    generator = np.random.default_rng(2)
    with path.open("wb") as file:
        for start, stop in steps(tokens, piece):
            file.write(generator.standard_normal((stop - start, *TOKEN_SHAPE), np.float32).data)


def peak_mib() -> float:
    """Return the most memory that this process has had so far (Linux counts it)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description="Attend over keys and values in a file.")
    parser.add_argument("--mib", type=positive, default=256, help="size of the file, default 256")
    parser.add_argument(
        "--piece", type=positive, default=2048, help="tokens mapped at once, default 2048 (16 MiB)"
    )
    parser.add_argument("--folder", type=folder, help="where the file lies while this runs")
    return parser.parse_args()


def positive(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def folder(text: str) -> Path:
    """Read the name of a folder."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, got {text!r}")
    return path


if __name__ == "__main__":
    main()
