"""A picture of attention weights: one panel per layer and head, tokens on both axes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from cpuattn.demo.errors import DemoError

PANEL_INCHES = 3.1
MASKED_COLOUR = "#f1f1f1"
WRITTEN_COLOUR = "#1f5fbf"


def check_format(path: Path) -> None:
    """Fail before any work if the suffix is no picture format.

    Raises
    ------
    DemoError
        If it is none.
    """
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise DemoError(f"--output: {path.name} must end in one of .{', .'.join(sorted(formats))}")


def draw(
    weights: Sequence[NDArray[np.float32]],
    tokens: Sequence[str],
    path: Path,
    *,
    prompt_length: int,
) -> None:
    """Draw and save the weights of every layer (rows) and head (columns).

    Parameters
    ----------
    weights : sequence of ndarray, shape (heads, tokens, tokens)
        Causal attention weights, one array per layer.
    tokens : sequence of str
        The tokens' texts.
    path : Path
        Where to save; the suffix chooses the format.
    prompt_length : int
        How many of the tokens were given; the rest was written by the model.

    Raises
    ------
    DemoError
        If the file cannot be written.
    """
    layers, heads = len(weights), len(weights[0])
    size = (PANEL_INCHES * heads + 1.2, PANEL_INCHES * layers + 1.6)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08))
    figure.suptitle("Attention weights: which token (row) looks at which (column)", fontsize=18)
    figure.supxlabel("key tokens: given in black, written by the model in blue", fontsize=12)
    figure.supylabel("query tokens", fontsize=12)
    axes = figure.subplots(layers, heads, sharex=True, sharey=True, squeeze=False)
    colours = mpl.colormaps["magma_r"].with_extremes(bad=MASKED_COLOUR)
    hidden = ~np.tri(len(tokens), dtype=bool)
    for layer, per_head in enumerate(weights):
        for head, matrix in enumerate(per_head):
            # The square root shows small weights too: most rows spread over many keys.
            image = axes[layer, head].imshow(
                np.ma.masked_where(hidden, matrix), cmap=colours, norm=PowerNorm(0.5, 0, 1)
            )
            axes[layer, head].set_title(f"layer {layer + 1}, head {head + 1}", fontsize=10)
    texts = [text.replace("\n", "↵").replace("▁", "·") for text in tokens]
    _label(axes, texts, prompt_length)
    bar = figure.colorbar(image, ax=axes, shrink=0.35, aspect=30, pad=0.01)
    bar.set_label("attention weight")
    bar.outline.set_visible(False)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise DemoError(f"--output: cannot write {path}: {error.strerror}") from error


def _label(axes: NDArray[Any], tokens: Sequence[str], prompt_length: int) -> None:
    """Write the tokens on the outer axes only: the panels share them."""
    positions = range(len(tokens))
    for panel in axes.flat:
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    for panel in axes[-1]:
        panel.set_xticks(positions, tokens, rotation=90, fontsize=7.5, parse_math=False)
        _colour(panel.get_xticklabels()[prompt_length:])
    for panel in axes[:, 0]:
        panel.set_yticks(positions, tokens, fontsize=7.5, parse_math=False)
        _colour(panel.get_yticklabels()[prompt_length:])


def _colour(labels: Sequence[Any]) -> None:
    for label in labels:
        label.set_color(WRITTEN_COLOUR)
