"""Draw over a picture where a model looks, and which parts are alike."""

import os
from pathlib import Path
from typing import Any

import numpy as np

# A notebook leaves its own backend to the programs that it starts, which may not have it.
os.environ.pop("MPLBACKEND", None)

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.parts import Array

COLOURS = "viridis"


def draw(
    pixels: Array, weights: Array, similarity: Array, chosen: tuple[int, int], path: Path
) -> None:
    """Save the attention of CLS and the similarity to a patch as a picture.

    Parameters
    ----------
    pixels : ndarray, shape (side, side, 3)
        The picture, from 0 to 1.
    weights : ndarray, shape (H, P, P)
        How much CLS looks at each patch with each head.
    similarity : ndarray, shape (P, P)
        Of each patch to the chosen one, up to 1.
    chosen : (int, int)
        Row and column of the chosen patch.
    path : Path
        Where to save; the suffix chooses the format.
    """
    heads = [f"head {head + 1}" for head in range(len(weights))]
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    # Two columns of six for a large panel, one for a small one.
    large = [name for name in ("picture", "attention", "similarity") for _ in range(2)]
    rows: list[Any] = [large, heads]
    panels = figure.subplot_mosaic(rows, height_ratios=[2, 1])
    for panel in panels.values():
        panel.set_axis_off()
    # Patches are the unit: the picture is stretched over them.
    extent = (-0.5, len(similarity) - 0.5, len(similarity) - 0.5, -0.5)
    for name in ("picture", "attention", "similarity"):
        panels[name].imshow(pixels, extent=extent)
    mark(panels["picture"], chosen, "the picture and the chosen patch")
    overlay(panels["attention"], weights.mean(axis=0), "where CLS looks, mean of all heads")
    overlay(panels["similarity"], similarity, "how like the chosen patch")
    for head, values in zip(heads, weights, strict=True):
        panels[head].imshow(values, cmap=COLOURS)
        panels[head].set_title(head, fontsize=9)
    figure.savefig(path, dpi=100)


def overlay(panel: Axes, values: Array, title: str) -> None:
    """Lay numbers over a picture: yellow is high, blue is low."""
    # The largest few weights would leave the rest dark.
    low, high = np.quantile(values, [0, 0.98])
    panel.imshow(values, cmap=COLOURS, alpha=0.65, vmin=low, vmax=high, interpolation="bilinear")
    panel.set_title(title, fontsize=10)


def mark(panel: Axes, chosen: tuple[int, int], title: str) -> None:
    """Frame the chosen patch."""
    row, column = chosen
    x, y = np.array([0, 1, 1, 0, 0]) + column - 0.5, np.array([0, 0, 1, 1, 0]) + row - 0.5
    panel.plot(x, y, color="white", linewidth=4)
    panel.plot(x, y, color="black", linewidth=1.5)
    panel.set_title(title, fontsize=10)
