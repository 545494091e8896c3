"""SmolLM2-135M-Instruct answers alike with caches of every float dtype and in plain NumPy.

The model is fetched once into the cache of the demos. Without a registry these tests are skipped.
"""

import copy
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

for package in ("gguf", "jinja2", "rich", "threadpoolctl", "tokenizers"):
    pytest.importorskip(package, reason='needs pip install ".[demo]"')

from threadpoolctl import threadpool_limits  # noqa: E402

from cpuattn import __main__ as cli  # noqa: E402
from cpuattn.demo import smollm2, smollm2_numpy  # noqa: E402
from cpuattn.demo.chat_template import ChatTemplate  # noqa: E402
from cpuattn.demo.decoder import Decoder  # noqa: E402
from cpuattn.demo.gguf_file import GGUFFile  # noqa: E402
from cpuattn.demo.gguf_tokenizer import build_tokenizer  # noqa: E402
from cpuattn.demo.llama import build_decoder  # noqa: E402
from cpuattn.demo.sampling import Sampler  # noqa: E402
from downloads import fetched  # noqa: E402

pytestmark = pytest.mark.download

PROMPTS = [
    "What is the capital of Japan?",
    "What is the speed of light?",
    "What is the capital of Germany?",
    "What is gravity?",
    "How many days are in a week?",
]
TOKENS = 12
# Rounding keys and values to bfloat16 moves these logits by up to 0.16. At every token of these
# answers the best one leads by more than this; where two are closer, either would be right.
CLEAR = 0.2


@pytest.fixture(scope="module", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """On a busy machine two threads that wait for each other are many times as slow as one."""
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="module")
def model() -> GGUFFile:
    return smollm2.read_wheel(fetched(smollm2.WHEEL))


@pytest.fixture(scope="module")
def decoder(model: GGUFFile) -> Decoder:
    return build_decoder(model)


@pytest.fixture(scope="module")
def answers(model: GGUFFile, decoder: Decoder) -> dict[str, list[int]]:
    """Greedy answers over float32 caches, one per prompt."""
    return {prompt: answer(model, decoder, prompt, "float32") for prompt in PROMPTS}


def prompt_ids(model: GGUFFile, prompt: str) -> list[int]:
    template = ChatTemplate(model, build_tokenizer(model))
    return template.ids([{"role": "user", "content": prompt}])


def answer(model: GGUFFile, decoder: Decoder, prompt: str, dtype: str) -> list[int]:
    end = model.value("tokenizer.ggml.eos_token_id")
    ids = prompt_ids(model, prompt)
    tokens = []
    steps = decoder.write(ids, decoder.new_caches(len(ids) + TOKENS, dtype), Sampler(0, 1, 0))
    for token, _ in islice(steps, TOKENS):
        tokens.append(token)
        if token == end:
            break
    return tokens


@pytest.mark.parametrize("prompt", PROMPTS)
def test_float32_answers_are_those_of_numpy(
    prompt: str, model: GGUFFile, answers: dict[str, list[int]]
) -> None:
    ids, found = prompt_ids(model, prompt), answers[prompt]
    # Each token is the reference's choice after the tokens before it. So this is the whole answer
    # that the reference would write, one token after the other.
    logits = smollm2_numpy.logits(model.weights, model.value, ids + found[:-1])[len(ids) - 1 :]
    assert logits.argmax(axis=1).tolist() == found
    second, best = np.sort(logits, axis=1)[:, -2:].T
    assert (best - second).min() > CLEAR


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_narrow_caches_give_the_same_answer(
    prompt: str,
    dtype: str,
    model: GGUFFile,
    decoder: Decoder,
    answers: dict[str, list[int]],
) -> None:
    assert answer(model, decoder, prompt, dtype) == answers[prompt]


def test_int8_cache_knows_the_capital(
    model: GGUFFile, decoder: Decoder, answers: dict[str, list[int]]
) -> None:
    assert answer(model, decoder, PROMPTS[0], "int8") == answers[PROMPTS[0]]


def test_command(
    model: GGUFFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Read once is enough; the command drops the weights when it has joined them.
    again = copy.copy(model)
    again.weights = dict(model.weights)
    monkeypatch.setattr(smollm2, "read_wheel", lambda _path: again)
    assert cli.main(["demo", "chat", PROMPTS[0]]) == 0
    output = capsys.readouterr().out
    assert "134,515,008 parameters, 30 layers, 9 query heads over 3 key/value heads" in output
    assert "\n\nThe capital of Japan is Tokyo.\n\n" in output
    assert "; ended by the model\n" in output
    assert " bytes in float32, 46,080 a token, room for 293 tokens in 30 layers\n" in output


def test_greeting_is_answered_by_one(
    model: GGUFFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the instructions of its own template the model talks of something else."""
    again = copy.copy(model)
    again.weights = dict(model.weights)
    monkeypatch.setattr(smollm2, "read_wheel", lambda _path: again)
    assert cli.main(["demo", "chat", "hi"]) == 0
    assert "\n\nHello there! How can I assist you today?\n\n" in capsys.readouterr().out
