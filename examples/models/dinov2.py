"""DINOv2 ViT-S/14, which turns a picture into features: one token per patch of 14 × 14 pixels.

A token more, CLS, stands for the whole picture. All tokens attend to all, in 12 layers of 6 heads.
Nobody told the model what is in a picture; it learned that views of one thing belong together.

Letters: P patches along a side, L = P · P + 1 tokens, C width, H heads, D = C / H.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023.
"""

from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

import cpuattn
from cpuattn.demo.minilm import gelu
from models.parts import Array, Attention, join_heads, layer_norm, split_heads

PATCH = 14  # pixels along a side
NUM_HEADS = 6
EPSILON = 1e-6
# Of the colors of ImageNet.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
POSITIONS = "/backbone/embeddings/Reshape_1"  # reads the positions of a 37 × 37 grid
CLS_POSITION = "/backbone/embeddings/Concat_6"  # joins the position of CLS to them


class Seen(NamedTuple):
    """What the model makes of a picture."""

    features: Array  # (L, C): CLS, then the patches row by row
    query: Array  # (H, L, D) of the last layer
    key: Array  # (H, L, D) of the last layer


class DINOv2:
    """The encoder.

    Parameters
    ----------
    weights : dict of str to ndarray of float32
        From `read_weights`.
    attention : callable, default cpuattn.attention
        Called with query, key and value.
    """

    def __init__(self, weights: dict[str, Array], attention: Attention = cpuattn.attention) -> None:
        self._weights = weights
        self._attention = attention
        self._num_layers = sum(name.endswith(".mlp.fc1.bias") for name in weights)

    def __call__(self, pixels: Array) -> Seen:
        """Look at a picture.

        Parameters
        ----------
        pixels : ndarray of float32, shape (14 · P, 14 · P, 3)
            Red, green and blue from 0 to 1.

        Returns
        -------
        Seen
            Features of each token, and query and key of the last layer.
        """
        x = self._embed(pixels)
        for layer in range(self._num_layers):
            name = f"backbone.encoder.layer.{layer}"
            normed = self._norm(x, f"{name}.norm1")
            query, key, value = (
                split_heads(self._linear(normed, f"{name}.attention.attention.{part}"), NUM_HEADS)
                for part in ("query", "key", "value")
            )
            attended = join_heads(self._attention(query, key, value))
            attended = self._linear(attended, f"{name}.attention.output.dense")
            x = x + attended * self._weights[f"{name}.layer_scale1.lambda1"]
            hidden = gelu(self._linear(self._norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
            hidden = self._linear(hidden, f"{name}.mlp.fc2")
            x = x + hidden * self._weights[f"{name}.layer_scale2.lambda1"]
        return Seen(self._norm(x, "backbone.layernorm"), query, key)

    def _embed(self, pixels: Array) -> Array:
        """Turn each patch into a token and tell it its position, (L, C)."""
        w = self._weights
        patches = len(pixels) // PATCH
        colours = (pixels - MEAN) / DEVIATION
        grid = colours.reshape(patches, PATCH, patches, PATCH, 3).transpose(0, 2, 4, 1, 3)
        matrix = w["backbone.embeddings.patch_embeddings.projection.weight"]  # (C, 3, 14, 14)
        x = grid.reshape(patches * patches, -1) @ matrix.reshape(len(matrix), -1).T
        x = x + w["backbone.embeddings.patch_embeddings.projection.bias"]
        learned = w[POSITIONS][0]
        side = round(len(learned) ** 0.5)
        zoom = cubic_matrix(side, patches)
        positions = np.einsum("ai,bj,ijc->abc", zoom, zoom, learned.reshape(side, side, -1))
        x += positions.reshape(x.shape)
        cls = w["backbone.embeddings.cls_token"] + w[CLS_POSITION]
        return np.concatenate([cls[0], x])

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _norm(self, x: Array, name: str) -> Array:
        gain, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return layer_norm(x, gain, bias, EPSILON)


def cubic_matrix(old: int, new: int) -> Array:
    """Return the (new, old) matrix that resizes a row of numbers by cubic interpolation.

    Each new number is the sum of the four old ones around it. Beyond an end the last one repeats.
    Source: Keys, "Cubic convolution interpolation", 1981, with the slope -3/4 that the model's
    makers used.
    """
    slope = -0.75
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    matrix = np.zeros((new, old), np.float32)
    for tap in range(-1, 3):
        place = np.floor(centres).astype(int) + tap
        d = np.abs(centres - place)
        near = (slope + 2) * d**3 - (slope + 3) * d**2 + 1
        far = slope * (d**3 - 5 * d**2 + 8 * d - 4)
        np.add.at(matrix, (np.arange(new), place.clip(0, old - 1)), np.where(d <= 1, near, far))
    return matrix


def read_weights(content: bytes) -> dict[str, Array]:
    """Return the weights in an ONNX file.

    Parameters
    ----------
    content : bytes
        The file. Some of its weights have names, others only numbers.

    Returns
    -------
    dict of str to ndarray of float32
        A matrix without a name is named after its product, as its bias is; matrices
        are (in, out). Others get the name of the operation that reads them.
    """
    graph = onnx.load_model_from_string(content).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: array for name, array in arrays.items() if not name.startswith("onnx::")}
    for node in graph.node:
        for name in set(node.input) & (arrays.keys() - weights.keys()):
            product = node.name[1:].replace("/MatMul", ".weight").replace("/", ".")
            weights[product if node.op_type == "MatMul" else node.name] = arrays[name]
    return weights
