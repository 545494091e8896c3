"""Real trained models that run on cpuattn.

``python -m cpuattn demo`` writes text with glassllm (a 3 MB decoder: causal attention, grouped
heads, rotary positions, a KV cache); ``python -m cpuattn demo chat`` answers with
SmolLM2-135M-Instruct (a 93 MB decoder, caches of any dtype); ``python -m cpuattn demo minilm``
searches text files with all-MiniLM-L6-v2 (an 83 MB encoder: ragged batches).

Where to start reading: `decoder.py` and `minilm.py` are the models; `generate.py`, `chat.py` and
`search.py` are the commands around them.
"""

import importlib
from collections.abc import Sequence

from cpuattn.demo.errors import require

__all__ = ["main"]

# A demo's command, and the packages of the extra that it imports.
DEMOS = {
    "glassllm": ("cpuattn.demo.generate", ["glassllm", "matplotlib"]),
    "chat": ("cpuattn.demo.chat", ["gguf", "ml_dtypes", "rich", "tokenizers"]),
    "minilm": ("cpuattn.demo.search", ["rich", "safetensors", "tokenizers"]),
}


def main(argv: Sequence[str]) -> int:
    """Run a demo: ``[glassllm]``, ``chat`` or ``minilm``, and its options.

    Parameters
    ----------
    argv : sequence of str
        The words after ``demo``.

    Returns
    -------
    int
        The exit status: 0, or 1 if the model disagrees with its NumPy reference.

    Raises
    ------
    DemoError
        For problems that the user can solve: a missing extra, file, network or model.
    """
    name = "glassllm"
    if argv and argv[0] in DEMOS:
        name, argv = argv[0], argv[1:]
    module, needed = DEMOS[name]
    require(*needed)
    command = importlib.import_module(module)
    status: int = command.main(argv)
    return status
