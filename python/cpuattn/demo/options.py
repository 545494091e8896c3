"""The command lines of the demos. They are read, and explain themselves, without the extra."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cpuattn._programs import output_file, utf8_text
from cpuattn.demo.arguments import (
    natural_int,
    positive_int,
    regular_file,
    share,
    temperature,
    words,
)

CACHE_DTYPES = ("float32", "float16", "bfloat16", "int8")
PROMPTS = {"en": "Alice was beginning to", "pt": "Capitu olhou para"}
TOP_P = 0.95


def glassllm(argv: Sequence[str]) -> argparse.Namespace:
    """Read the options of the demo that writes text."""
    parser = argparse.ArgumentParser(
        prog="python -m cpuattn demo",
        description="Write text with a small trained language model on cpuattn. Other demos, each "
        "with its own --help: `demo chat` (talk with a language model), `demo long` (let it read "
        "a long text), `demo minilm` (search in your own text files).",
    )
    parser.add_argument(
        "--prompt", type=utf8_text, help="the text to continue (default: one per language)"
    )
    parser.add_argument(
        "--tokens", type=positive_int, default=40, help="tokens to add (default 40)"
    )
    parser.add_argument("--lang", choices=sorted(PROMPTS), default="en", help="default en")
    parser.add_argument(
        "--output",
        type=output_file,
        metavar="PICTURE",
        help="draw the attention weights into this file, such as attention.png",
    )
    return parser.parse_args(argv)


def chat(argv: Sequence[str]) -> argparse.Namespace:
    """Read the options of the chat; its words become one text."""
    parser = argparse.ArgumentParser(
        prog="python -m cpuattn demo chat",
        description="Talk with SmolLM2-135M-Instruct, or with another model of the Llama family, "
        "on cpuattn. The answer is always the likeliest one unless --temperature is given.",
    )
    parser.add_argument(
        "text",
        nargs="*",
        type=utf8_text,
        help="what you say, quotes are not needed; without it each line of the standard input is "
        "your turn in a conversation, /reset begins a new one, /exit ends",
    )
    parser.add_argument(
        "--system",
        type=utf8_text,
        metavar="TEXT",
        help="instructions to the model (default: those of its own chat template)",
    )
    add_model(parser)
    parser.add_argument(
        "--cache-dtype",
        choices=CACHE_DTYPES,
        default="float32",
        help="how keys and values are stored (default float32)",
    )
    parser.add_argument(
        "--tokens", type=positive_int, default=256, help="most tokens of an answer (default 256)"
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
    add_cache(parser)
    args = parser.parse_intermixed_args(argv)
    said = " ".join(args.text)
    if args.text and not said.strip():
        parser.error("argument text: must not be empty")
    args.text = said
    return args


def long(argv: Sequence[str]) -> argparse.Namespace:
    """Read the options of the demo that reads a long text."""
    parser = argparse.ArgumentParser(
        prog="python -m cpuattn demo long",
        description="Let a language model read a text of some thousand tokens, where attention "
        "is much of the work, and compare cpuattn with NumPy and, if installed, torch in the same "
        "layers of the same model.",
    )
    parser.add_argument(
        "--text", type=regular_file, metavar="FILE", help="what it reads (default: Python's help)"
    )
    parser.add_argument(
        "--tokens",
        type=positive_int,
        default=4096,
        help="tokens of the text, from its beginning (default 4096)",
    )
    parser.add_argument(
        "--question",
        type=words,
        default="What is this text about? Answer in one sentence.",
        help="what it is asked about the text",
    )
    add_model(parser)
    add_cache(parser)
    return parser.parse_args(argv)


def minilm(argv: Sequence[str]) -> argparse.Namespace:
    """Read the options of the search."""
    parser = argparse.ArgumentParser(
        prog="python -m cpuattn demo minilm",
        description="Find the passages of your text files that are closest in meaning to a query. "
        "The model (84 MB) is fetched once.",
    )
    parser.add_argument(
        "--text", nargs="+", type=Path, metavar="FILE", required=True, help="files to search in"
    )
    parser.add_argument("--query", type=words, required=True, help="what to look for")
    parser.add_argument("--top", type=positive_int, default=5, help="passages to show (default 5)")
    add_cache(parser)
    return parser.parse_args(argv)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the option for another model."""
    parser.add_argument(
        "--model",
        type=regular_file,
        metavar="FILE.gguf",
        help="a GGUF file of the Llama architecture (default: SmolLM2-135M-Instruct, 93 MB, "
        "fetched once)",
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folder that keeps what was fetched."""
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="where fetched models are kept (default: $XDG_CACHE_HOME/cpuattn, else "
        "~/.cache/cpuattn)",
    )
