"""``python -m cpuattn demo``: write text, check it, time it, draw the attention weights."""

import argparse
import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cpuattn
from cpuattn._programs import import_matplotlib
from cpuattn.demo import glassllm, speed
from cpuattn.demo.decoder import Array, Decoder, attend
from cpuattn.demo.errors import DemoError, require
from cpuattn.demo.options import PROMPTS

# More tokens than this on an axis cannot be read.
PICTURE_TOKENS = 28


def run(args: argparse.Namespace) -> int:
    """Run the glassllm demo.

    Parameters
    ----------
    args : argparse.Namespace
        What `options.glassllm` read.

    Returns
    -------
    int
        0, or 1 if the tokens differ from the ones of the package's own NumPy model.

    Raises
    ------
    DemoError
        If the prompt is empty, the text does not fit in the model, or the picture cannot be saved.
    """
    picture = _picture_maker(args.output)
    decoder, model, tokenizer = glassllm.load(args.lang)
    prompt = PROMPTS[args.lang] if args.prompt is None else args.prompt
    ids: list[int] = tokenizer.encode(prompt)
    _check_length(len(ids), args.tokens, decoder.config.context)
    _introduce(args.lang, decoder)
    if tokenizer.unk_id in ids:
        print("note: the prompt has characters that this model does not know (⁇)")

    print(f"\n{tokenizer.decode(ids)}", end="", flush=True)
    steps = []
    for step in greedy(decoder, ids, args.tokens):
        print(tokenizer.decode([step[0]]), end="", flush=True)
        steps.append(step)
    print("\n")

    same = _check(steps, model, ids)
    speed.print_generation(
        {
            "cpuattn": lambda: list(greedy(decoder, ids, args.tokens)),
            "glassllm's own": lambda: list(model.generate(ids, args.tokens, greedy=True)),
        },
        args.tokens,
    )
    speed.print_attention(decoder.config)
    if picture is not None:
        shown = [*ids, *(token for token, _ in steps)][:PICTURE_TOKENS]
        picture.draw(
            attention_weights(decoder, shown),
            tokenizer.tokens(shown),
            args.output,
            prompt_length=len(ids),
        )
        print(f"saved {args.output}: who looks at whom among the first {len(shown)} tokens")
    return 0 if same else 1


def greedy(
    decoder: Decoder, ids: list[int], count: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield (token, probabilities of all tokens) `count` times, always the likeliest token."""
    steps = decoder.write(ids, decoder.new_caches(), choose=lambda logits: int(np.argmax(logits)))
    for token, logits in itertools.islice(steps, count):
        exponentials = np.exp(logits.astype(np.float64) - logits.max())
        yield token, exponentials / exponentials.sum()


def attention_weights(decoder: Decoder, ids: list[int]) -> list[NDArray[np.float32]]:
    """Return each layer's weights, (query heads, tokens, tokens), for one pass over `ids`."""
    weights: list[NDArray[np.float32]] = []

    def record(cache: cpuattn.KVCache, query: Array) -> Array:
        weights.append(cpuattn.attention_weights(query, cache.keys, causal=True)[0])
        return attend(cache, query)

    decoder.logits(ids, decoder.new_caches(), record)
    return weights


def _picture_maker(output: Path | None) -> Any:
    """Return the module that draws, after a check of the file's name; None if no file is named."""
    if output is None:
        return None
    require("matplotlib")
    import_matplotlib()
    picture = importlib.import_module("cpuattn.demo.picture")
    picture.check_format(output)
    return picture


def _check_length(prompt: int, tokens: int, limit: int) -> None:
    if prompt == 0:
        raise DemoError("--prompt is empty: give the model at least one character to continue")
    if prompt >= limit:
        raise DemoError(
            f"--prompt has {prompt} tokens, but this model's context holds {limit}, "
            "written ones included"
        )
    if prompt + tokens > limit:
        raise DemoError(
            f"the prompt has {prompt} tokens, so --tokens {tokens} needs a context of "
            f"{prompt + tokens}; this model has {limit}: use --tokens {limit - prompt} or less"
        )


def _introduce(lang: str, decoder: Decoder) -> None:
    print(f"glassllm ({lang}): {decoder.describe()}")
    config = decoder.config
    query = np.zeros((config.heads, config.context, config.head_dim), np.float32)
    plan = cpuattn.explain(query, query, query, causal=True)
    print(f"attention: cpuattn {cpuattn.__version__}, {plan['isa']}, {plan['threads']} thread(s)")


def _check(steps: list[tuple[int, NDArray[np.float64]]], model: Any, ids: list[int]) -> bool:
    """Compare with the package's own greedy decoding, token by token; say what came out."""
    reference = list(model.generate(ids, len(steps), greedy=True))
    for index, ((token, _), expected) in enumerate(zip(steps, reference, strict=True)):
        if token != expected.token:
            print(f"check FAILED: token {index + 1} is {token}, in NumPy {expected.token}")
            return False
    difference = max(
        float(np.abs(probabilities - expected.probs).max())
        for (_, probabilities), expected in zip(steps, reference, strict=True)
    )
    print(
        f"check: the same {len(steps)} tokens as glassllm's own NumPy model; "
        f"probabilities differ by {difference:.1e} at most"
    )
    return True
