"""``python -m cpuattn demo long``: read a text of some thousand tokens, then answer about it.

Over a short text attention is a percent of a model's work. Here it is much of it, so that it
matters who computes it: in some layers NumPy and, if installed, torch attend with the same queries
over the same keys and values, and their results are compared.
"""

import argparse
import importlib
import itertools
import time

from tokenizers import Tokenizer

from cpuattn.demo.chat import load_model
from cpuattn.demo.chat_template import ChatTemplate
from cpuattn.demo.comparison import US, Comparison
from cpuattn.demo.decoder import Decoder
from cpuattn.demo.errors import DemoError
from cpuattn.demo.gguf_tokenizer import build_tokenizer, end_tokens
from cpuattn.demo.llama import build_decoder
from cpuattn.demo.passages import read_text
from cpuattn.demo.sampling import Sampler
from cpuattn.demo.speed import format_seconds

ANSWER_TOKENS = 48
COMPARED_LAYERS = 5  # NumPy would take minutes for all of them
# Rounding in float32, relative to the largest element of a layer's output.
TOLERANCE = 1e-4


def run(args: argparse.Namespace) -> int:
    """Read, answer, and compare.

    Parameters
    ----------
    args : argparse.Namespace
        What `options.long` read.

    Returns
    -------
    int
        0, or 1 if the results of attention differ.

    Raises
    ------
    DemoError
        If the model cannot be fetched or read, or the text does not fit in its context.
    """
    text = _pythons_help() if args.text is None else read_text(args.text)
    name, model = load_model(args.model, args.cache)
    decoder, tokenizer = build_decoder(model), build_tokenizer(model)
    template, ends = ChatTemplate(model, tokenizer), end_tokens(model)
    model.weights.clear()  # the decoder has joined copies of most
    beginning = tokenizer.decode(
        tokenizer.encode(text, add_special_tokens=False).ids[: args.tokens]
    )
    ids = template.ids([{"role": "user", "content": f"{beginning}\n\n{args.question}"}])
    context = decoder.config.context
    if len(ids) + ANSWER_TOKENS > context:
        raise DemoError(
            f"text and question have {len(ids)} tokens and the answer up to {ANSWER_TOKENS}, but "
            f"this model's context holds {context}: use a smaller --tokens"
        )
    print(f"{name}: {decoder.describe()}\n\n{args.question}", flush=True)
    comparison = Comparison(len(decoder.blocks), COMPARED_LAYERS)
    return _answer(decoder, tokenizer, comparison, ids, ends)


def _answer(
    decoder: Decoder, tokenizer: Tokenizer, comparison: Comparison, ids: list[int], ends: set[int]
) -> int:
    caches = decoder.new_caches(len(ids) + ANSWER_TOKENS)
    steps = decoder.write(ids, caches, Sampler(0, 1, 0), comparison)
    start = time.perf_counter()
    first, _ = next(steps)
    seconds = time.perf_counter() - start - comparison.other_seconds
    report = [f"reading {len(ids):,} tokens", *_lines(comparison, seconds)]
    same = _same(comparison)

    comparison.restart()
    start = time.perf_counter()
    rest = (token for token, _ in itertools.islice(steps, ANSWER_TOKENS - 1))
    written = itertools.chain([first], rest)
    tokens = list(itertools.takewhile(lambda token: token not in ends, written))
    print(f"\n{tokenizer.decode(tokens)}\n")
    print("\n".join(report))
    if comparison.seconds[US]:
        seconds = time.perf_counter() - start - comparison.other_seconds
        print("\n".join(["writing the answer", *_lines(comparison, seconds)]))
        same = same and _same(comparison)
    print(f"check {'passed' if same else 'FAILED'}: allowed is a difference of {TOLERANCE:.0e}")
    return 0 if same else 1


def _lines(comparison: Comparison, seconds: float) -> list[str]:
    """Say how long it took, and how long everyone's attention."""
    own = comparison.own_seconds
    lines = [f"  attention: {own / seconds:.0%} of {format_seconds(seconds)} with cpuattn"]
    lines.append(f"  {'of one layer':<14}{'time':>10}{'× cpuattn':>11}{'differs by':>12}")
    ours = comparison.median(US)
    for name in comparison.seconds:
        time_, difference = comparison.median(name), comparison.differences[name]
        ratio = f"{time_ / ours:.2f}"
        shown = "" if name == US else f"{difference:.1e}"
        lines.append(f"  {name:<14}{format_seconds(time_):>10}{ratio:>11}{shown:>12}")
    return lines


def _same(comparison: Comparison) -> bool:
    return max(comparison.differences.values()) <= TOLERANCE  # False for NaN


def _pythons_help() -> str:
    """Return the pages of `help()` on the language: a long text that every Python has."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return "\n\n".join(topics[name] for name in sorted(topics))
