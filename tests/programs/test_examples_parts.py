"""The parts of the models in examples/, without a download: weights of their own."""

import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cpuattn

EXTRA = 'needs pip install "cpuattn[examples]"'
onnx = pytest.importorskip("onnx", reason=EXTRA)
pytest.importorskip("rich", reason=EXTRA)

from onnx.reference import ReferenceEvaluator  # noqa: E402

from models import dinov2, sound  # noqa: E402
from models.ctranslate2 import read_weights  # noqa: E402
from models.parts import Timed  # noqa: E402
from models.whisper import Decoder, Whisper  # noqa: E402

WIDTH, VOCABULARY, FRAMES = 12, 20, 9


def small_whisper() -> dict[str, NDArray[np.float32]]:
    """Random weights of 3 heads of 4, 2 layers in each half, 9 frames of 5 pitches."""
    rng = np.random.default_rng(6)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/conv1/weight": (WIDTH, 5, 3),
        "encoder/conv1/bias": (WIDTH,),
        "encoder/conv2/weight": (WIDTH, WIDTH, 3),
        "encoder/conv2/bias": (WIDTH,),
        "encoder/position_encodings/encodings": (FRAMES, WIDTH),
        "decoder/position_encodings/encodings": (30, WIDTH),
        "decoder/embeddings/weight": (VOCABULARY, WIDTH),
        "decoder/projection/weight": (VOCABULARY, WIDTH),
    }
    linears = {"self_attention": (3, 1), "attention": (1, 2, 1), "ffn": (4, 1)}
    for half in ("encoder", "decoder"):
        norms = [f"{half}/layer_norm"]
        for name in (f"{half}/layer_{layer}/{part}" for layer in range(2) for part in linears):
            norms.append(f"{name}/layer_norm")
            features = WIDTH
            for index, factor in enumerate(linears[name.split("/")[-1]]):
                shapes[f"{name}/linear_{index}/weight"] = factor * WIDTH, features
                shapes[f"{name}/linear_{index}/bias"] = (factor * WIDTH,)
                # Only the second half of the feed-forward layer reads what the first wrote.
                features = factor * WIDTH if name.endswith("ffn") else WIDTH
        shapes |= {f"{norm}/{part}": (WIDTH,) for norm in norms for part in ("gamma", "beta")}
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return weights | {"encoder/num_heads": np.array(3, np.float32)}


def test_whisper_token_by_token_is_whisper_at_once() -> None:
    weights = small_whisper()
    ids = [3, 1, 4, 1, 5, 9]
    logits = []
    for attention in (cpuattn.attention, cpuattn.reference.attention_numpy):
        timed = Timed(attention)
        model = Whisper(weights, timed)
        heard = model.encode(np.random.default_rng(7).standard_normal((2 * FRAMES, 5), np.float32))
        assert heard.shape == (1, FRAMES, WIDTH)
        logits.append(Decoder(model, heard).step(ids))
        assert timed.calls == 2 + 2 * 2  # encoder; text and sound in each layer of the decoder
        decoder = Decoder(model, heard)
        logits.append([decoder.step([token]) for token in ids][-1])
    for other in logits[1:]:
        np.testing.assert_allclose(other, logits[0], atol=1e-4)


def test_whisper_hears_and_looks_back() -> None:
    model = Whisper(small_whisper())
    sounds = np.random.default_rng(8).standard_normal((2, 2 * FRAMES, 5), np.float32)
    first, second = (model.encode(each) for each in sounds)
    expected = Decoder(model, first).step([1, 2, 3])
    assert not np.allclose(Decoder(model, second).step([1, 2, 3]), expected)
    assert not np.allclose(Decoder(model, first).step([4, 2, 3]), expected)


@pytest.mark.parametrize("new", [1, 2, 16, 32, 37, 80])
def test_cubic_matrix_is_resize_of_onnx(new: int) -> None:
    x = np.random.default_rng(4).standard_normal((37, 5), np.float32)
    node = onnx.helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode="cubic", cubic_coeff_a=-0.75
    )
    sizes = np.array([new, 5])
    evaluator: Any = ReferenceEvaluator(node)
    (expected,) = evaluator.run(None, {"x": x, "sizes": sizes})
    np.testing.assert_allclose(dinov2.cubic_matrix(37, new) @ x, expected, atol=2e-6)


def test_a_pitch_is_heard_in_its_filter() -> None:
    times = np.arange(sound.RATE) / sound.RATE
    frequencies = np.array([200, 440, 1000, 3000, 7000])
    heard = [
        sound.log_mel(np.sin(2 * np.pi * f * times).astype(np.float32))[50] for f in frequencies
    ]
    filters = sound.mel_filters()
    assert filters.shape == (80, 201)
    # The bins of a spectrum of 400 samples at 16 kHz are 40 Hz apart.
    expected = [filters[:, round(f / 40)].argmax() for f in frequencies]
    assert [loudness.argmax() for loudness in heard] == expected


def wav(path: Path, *, channels: int = 1, width: int = 2, rate: int = 16000) -> bytes:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", "not compressed"))
        file.writeframes(struct.pack("<4h", 0, 16384, -32768, 32767))
    return path.read_bytes()


def test_samples_are_read(tmp_path: Path) -> None:
    samples = sound.read_wav(wav(tmp_path / "a.wav"))
    np.testing.assert_array_equal(samples, [0, 0.5, -1, 32767 / 32768])


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"channels": 2}, "16, 2 and 16000"),
        ({"width": 1}, "8, 1 and 16000"),
        ({"rate": 8000}, "16, 1 and 8000"),
    ],
)
def test_other_sounds_are_refused(options: dict[str, int], got: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"got {got}; convert it by\n  ffmpeg"):
        sound.read_wav(wav(tmp_path / "a.wav", **options))
    with pytest.raises(ValueError, match="must be a WAV file"):
        sound.read_wav(b"no sound")
    with pytest.raises(ValueError, match="must be a WAV file"):
        sound.read_wav(b"")


def model_file(version: int = 6) -> bytes:
    """Two arrays, of which one has a second name."""

    def text(letters: bytes) -> bytes:
        return struct.pack("<H", len(letters) + 1) + letters + b"\0"

    head = struct.pack("<I", version) + text(b"Spec") + struct.pack("<II", 1, 2)
    half = np.array([[1, 2], [3, 0.5]], np.float16).tobytes()
    first = text(b"a/weight") + struct.pack("<BIIBI", 2, 2, 2, 4, 8) + half
    second = text(b"heads") + struct.pack("<BBI", 0, 2, 2) + struct.pack("<h", -6)
    return head + first + second + struct.pack("<I", 1) + text(b"b/weight") + text(b"a/weight")


def test_model_file_is_read_to_its_last_byte() -> None:
    weights = read_weights(model_file())
    assert weights.keys() == {"a/weight", "b/weight", "heads"}
    np.testing.assert_array_equal(weights["a/weight"], [[1, 2], [3, 0.5]])
    assert weights["b/weight"] is weights["a/weight"]
    assert weights["heads"] == -6
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    with pytest.raises(ValueError, match="must be of version 6, got 5"):
        read_weights(model_file(version=5))
    with pytest.raises(ValueError, match="must end at byte"):
        read_weights(model_file() + b"\0")
