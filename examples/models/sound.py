"""Sound as Whisper hears it: 100 times a second, how loud each of 80 pitches is."""

import io
import wave

import numpy as np
from numpy.typing import NDArray

from models.parts import Array

RATE = 16_000  # samples per second
SECONDS = 30  # the model always hears this long; silence fills the rest
WINDOW, HOP = 400, 160  # samples: a look of 25 ms, every 10 ms
PITCHES = 80
CONVERT = "convert it by\n  ffmpeg -i YOURS -ac 1 -ar 16000 -c:a pcm_s16le sound.wav"


def read_wav(content: bytes) -> Array:
    """Return the samples of a WAV file, from -1 to 1.

    Parameters
    ----------
    content : bytes
        A file of 16-bit samples, one channel, 16000 samples per second.

    Returns
    -------
    ndarray of float32, shape (samples,)

    Raises
    ------
    ValueError
        If the file is of another kind; the message has a command that converts it.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            found = 8 * file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (EOFError, wave.Error) as error:
        reason = str(error) or "it ends too early"
        raise ValueError(f"the sound must be a WAV file: {reason}; {CONVERT}") from error
    if found != (16, 1, RATE):
        raise ValueError(
            "the sound must have 16 bits, 1 channel and 16000 samples per second, got "
            f"{found[0]}, {found[1]} and {found[2]}; {CONVERT}"
        )
    return np.frombuffer(frames, "<i2").astype(np.float32) / np.float32(2**15)


def log_mel(samples: Array) -> Array:
    """Return the loudness of each pitch in each look at the sound.

    Parameters
    ----------
    samples : ndarray of float32, shape (samples,)
        The first 30 seconds count.

    Returns
    -------
    ndarray of float32, shape (3000, 80)
    """
    length = RATE * SECONDS
    filled = np.zeros(length)
    filled[: len(samples)] = samples[:length]
    padded = np.pad(filled, WINDOW // 2, mode="reflect")  # look 0 is centered on sample 0
    looks = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: length // HOP]
    fade = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)  # Hann's window
    power = np.abs(np.fft.rfft(looks * fade)) ** 2
    loudness = np.log10(np.maximum(power @ mel_filters().T, 1e-10))
    loudness = np.maximum(loudness, loudness.max() - 8)  # what is far softer is silence
    scaled: Array = ((loudness + 4) / 4).astype(np.float32)
    return scaled


def mel_filters() -> NDArray[np.float64]:
    """Return how much of each of 201 frequencies belongs to each pitch, (80, 201).

    A filter is a triangle over its pitch. Pitches are spaced as people hear them: evenly up to
    1000 Hz, by a constant ratio above (the mel scale of Slaney's Auditory Toolbox, 1998).
    """
    ratio = np.log(6.4) / 27  # of one step above 1000 Hz, which is step 15
    steps = np.linspace(0, 15 + np.log(RATE / 2 / 1000) / ratio, PITCHES + 2)
    edges = np.where(steps < 15, steps * 1000 / 15, 1000 * np.exp((steps - 15) * ratio))
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising, falling = (frequencies - low) / (peak - low), (high - frequencies) / (high - peak)
    triangles: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    triangles *= 2 / (high - low)  # of equal area: wide filters do not hear more
    return triangles
