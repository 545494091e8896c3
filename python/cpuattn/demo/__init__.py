"""Real trained models that run on cpuattn.

``python -m cpuattn demo`` writes text with glassllm (a 3 MB decoder: causal attention, grouped
heads, rotary positions, a KV cache); ``demo chat`` talks with SmolLM2-135M-Instruct (a 93 MB
decoder, caches of any dtype, kept over a conversation) or another GGUF file; ``demo long`` lets it
read a long text, where attention is much of the work; ``demo minilm`` searches text files with
all-MiniLM-L6-v2 (an 83 MB encoder: ragged batches).

Where to start reading: `decoder.py` and `minilm.py` are the models; `generate.py`, `chat.py`,
`long.py` and `search.py` are the commands around them.
"""

import argparse
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cpuattn.demo import options
from cpuattn.demo.errors import require

__all__ = ["main"]


@dataclass(frozen=True)
class Demo:
    """A command."""

    parse: Callable[[Sequence[str]], argparse.Namespace]
    module: str  # which runs what was parsed
    needed: tuple[str, ...]  # packages of the extra that it imports


GGUF = ("gguf", "jinja2", "ml_dtypes", "rich", "tokenizers")
DEMOS = {
    "glassllm": Demo(options.glassllm, "cpuattn.demo.generate", ("glassllm",)),
    "chat": Demo(options.chat, "cpuattn.demo.chat", GGUF),
    "long": Demo(options.long, "cpuattn.demo.long", GGUF),
    "minilm": Demo(options.minilm, "cpuattn.demo.search", ("rich", "safetensors", "tokenizers")),
}


def main(argv: Sequence[str]) -> int:
    """Run a demo: ``[glassllm]``, ``chat``, ``long`` or ``minilm``, and its options.

    Parameters
    ----------
    argv : sequence of str
        The words after ``demo``.

    Returns
    -------
    int
        The exit status: 0, 1 if the model disagrees with its NumPy reference, or 130 if Ctrl-C
        ended an answer.

    Raises
    ------
    DemoError
        For problems that the user can solve: a missing extra, file, network or model.
    """
    name = "glassllm"
    if argv and argv[0] in DEMOS:
        name, argv = argv[0], argv[1:]
    demo = DEMOS[name]
    args = demo.parse(argv)
    require(*demo.needed)
    status: int = importlib.import_module(demo.module).run(args)
    return status
