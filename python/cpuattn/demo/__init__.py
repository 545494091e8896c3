"""Real trained models that run on cpuattn.

``python -m cpuattn demo`` writes text with glassllm (a 3 MB decoder: causal attention, grouped
heads, rotary positions, a KV cache); ``python -m cpuattn demo minilm`` searches text files with
all-MiniLM-L6-v2 (an 83 MB encoder: ragged batches).

Where to start reading: `glassllm.py` and `minilm.py` are the two models; `generate.py` and
`search.py` are the commands around them.
"""

import importlib
from collections.abc import Sequence

from cpuattn.demo.errors import require

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run a demo: ``[glassllm] [options]`` or ``minilm [options]``.

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
    if argv and argv[0] in {"glassllm", "minilm"}:
        name, argv = argv[0], argv[1:]
    if name == "minilm":
        require("rich", "safetensors", "tokenizers")
        command = importlib.import_module("cpuattn.demo.search")
    else:
        require("glassllm", "matplotlib")
        command = importlib.import_module("cpuattn.demo.generate")
    status: int = command.main(argv)
    return status
