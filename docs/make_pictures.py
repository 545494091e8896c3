"""Draw the pictures of tutorial.md: python docs/make_pictures.py [FOLDER].

They are kept beside the page, so that it can be read without running anything; a test checks that
this script still draws the same bytes. Numbers and masks in them are computed, not typed.
"""

import sys
from pathlib import Path

from drawing import kernel, steps

PICTURES = {
    "three-steps": steps.three_steps,
    "masks": steps.masks,
    "heads": steps.heads,
    "kv-cache": steps.kv_cache,
    "online-softmax": kernel.online_softmax,
    "blocks": kernel.blocks,
    "lanes": kernel.lanes,
}


def main(folder: Path) -> None:
    """Write every picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
