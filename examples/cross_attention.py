"""Cross-attention: a decoder that reads an encoder's output through MultiHeadAttention.

The encoder has turned each word of a batch into one row per letter: which position it has, which
letter it is. The decoder asks for one position per head and step, head 1 from the end of the word,
head 2 from its beginning. Queries meet keys (positions), the winners hand over values (letters).

The weights are set by hand to do just that, so the result can be read: no training, NumPy only.
Words have different lengths; `key_lengths` keeps the decoder from reading padding.
"""

import math
import string

import numpy as np
from numpy.typing import NDArray

import cpuattn

Array = NDArray[np.float32]

HALF = 32  # features of a head: one per position or letter
SHARPNESS = 100.0  # makes the softmax choose one key
WORDS = ["drawer", "stressed", "was"]


def main() -> None:
    """Read words backwards and forwards, whole and step by step, and check against NumPy."""
    lengths = [len(word) for word in WORDS]
    context = encode(WORDS)
    layer = lookup_layer()
    questions = ask(lengths, max(lengths))

    answers = layer(questions, context, key_lengths=lengths)  # (B, steps, 2 * HALF)
    for index, word in enumerate(WORDS):
        backwards, forwards = (read(half) for half in np.split(answers[index, : len(word)], 2, 1))
        print(f"{word:<9} head 1 reads {backwards:<9} head 2 reads {forwards}")
        if (backwards, forwards) != (word[::-1], word):
            raise SystemExit("the decoder read something else")

    expected = numpy_answers(layer.state_dict(), questions, context, lengths)
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-6)
    print(f"NumPy agrees within {np.abs(answers - expected).max():.1e}")

    # A decoder works step by step. The context is projected once, into a KV cache.
    cache = cpuattn.KVCache(len(WORDS), kv_heads=2, head_dim=HALF)
    steps = [layer(questions[:, :1], context, cache=cache, key_lengths=lengths)]
    steps += [layer(questions[:, t : t + 1], cache) for t in range(1, questions.shape[1])]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), answers, rtol=1e-5, atol=1e-6)
    print(f"step by step over a cached context: the same in {len(steps)} steps")


def encode(words: list[str]) -> Array:
    """Return (B, longest, 2 * HALF): one-hot position beside one-hot letter, then padding."""
    # Any number may stand in the padding: it is never read.
    context = np.full((len(words), max(map(len, words)), 2 * HALF), 1e9, np.float32)
    for index, word in enumerate(words):
        letters = [string.ascii_lowercase.index(letter) for letter in word]
        context[index, : len(word)] = 0
        context[index, range(len(word)), range(len(word))] = 1
        context[index, range(len(word)), [HALF + letter for letter in letters]] = 1
    return context


def ask(lengths: list[int], steps: int) -> Array:
    """Return (B, steps, 2 * HALF): the positions that head 1 and head 2 want at each step."""
    questions = np.zeros((len(lengths), steps, 2 * HALF), np.float32)
    for index, length in enumerate(lengths):
        for step in range(length):
            questions[index, step, [length - 1 - step, HALF + step]] = 1
    return questions


def lookup_layer() -> cpuattn.MultiHeadAttention:
    """Return a layer of two heads that match positions and hand over letters."""
    layer = cpuattn.MultiHeadAttention(2 * HALF, num_heads=2, bias=False)
    identity, zero = np.eye(HALF, dtype=np.float32), np.zeros((HALF, HALF), np.float32)
    both = np.eye(2 * HALF, dtype=np.float32)
    layer.load_state_dict(
        {
            "q_proj.weight": SHARPNESS * both,
            "k_proj.weight": np.block([[identity, zero], [identity, zero]]),  # the position, twice
            "v_proj.weight": np.block([[zero, identity], [zero, identity]]),  # the letter, twice
            "out_proj.weight": both,
        }
    )
    return layer


def read(letters: Array) -> str:
    """Turn rows of letter shares into the likeliest letters."""
    return "".join(string.ascii_lowercase[index] for index in letters.argmax(axis=1))


def numpy_answers(
    state: dict[str, Array], questions: Array, context: Array, lengths: list[int]
) -> NDArray[np.float64]:
    """Compute the layer with the textbook formula in float64, one word and head at a time."""
    width = 2 * HALF
    in_proj = state["in_proj_weight"].astype(np.float64)
    wq, wk, wv = in_proj[:width], in_proj[width : 2 * width], in_proj[2 * width :]
    answers = np.zeros(questions.shape)
    for index, length in enumerate(lengths):
        real = context[index, :length]
        for head in (slice(0, HALF), slice(HALF, width)):
            query, key, value = questions[index] @ wq.T, real @ wk.T, real @ wv.T
            scores = query[:, head] @ key[:, head].T / math.sqrt(HALF)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            answers[index, :, head] = weights @ value[:, head]
    return answers @ state["out_proj.weight"].T.astype(np.float64)


if __name__ == "__main__":
    main()
