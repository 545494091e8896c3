"""SmolLM2 on cpuattn: a small random model, read from a GGUF file like the real one."""

import numpy as np
import pytest

for package in ("gguf", "jinja2", "rich", "tokenizers"):
    pytest.importorskip(package, reason='needs pip install "cpuattn[demo]"')

import small_smollm2  # noqa: E402
from cpuattn.demo import smollm2_numpy  # noqa: E402
from cpuattn.demo.gguf_file import GGUFFile  # noqa: E402
from cpuattn.demo.gguf_tokenizer import build_tokenizer  # noqa: E402
from cpuattn.demo.llama import build_decoder  # noqa: E402
from small_smollm2 import CONTEXT, LAYERS, TOKENS  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    small_smollm2.write_gguf(path)
    found = GGUFFile(path)
    path.unlink()
    return found


def random_ids(count: int) -> list[int]:
    ids: list[int] = np.random.default_rng(6).integers(0, len(TOKENS), count).tolist()
    return ids


def test_weights_are_those_of_the_file(model: GGUFFile) -> None:
    originals = small_smollm2.random_tensors()
    assert model.weights.keys() == originals.keys()
    for name, original in originals.items():
        found = model.weights[name]
        assert found.dtype == np.float32
        # 15 or 254 steps between the least and the largest number of a block.
        steps = {1: np.inf, 2: 254 if name == "token_embd.weight" else 15}[original.ndim]
        allowed = 2 * np.abs(original).max() / steps
        np.testing.assert_allclose(found, original, rtol=0, atol=allowed, err_msg=name)


@pytest.mark.parametrize("parts", [[1], [24], [1] * 24, [7, 1, 5, 1], [CONTEXT]])
def test_logits_equal_numpy(model: GGUFFile, parts: list[int]) -> None:
    decoder = build_decoder(model)
    ids = random_ids(sum(parts))
    expected = smollm2_numpy.logits(model.weights, model.value, ids)
    caches = decoder.new_caches()
    for end, count in zip(np.cumsum(parts), parts, strict=True):
        found = decoder.logits(ids[end - count : end], caches)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[end - 1], rtol=0, atol=2e-5)
    assert len(caches) == LAYERS


def test_the_reference_sees_every_weight(model: GGUFFile) -> None:
    ids = random_ids(5)
    before = smollm2_numpy.logits(model.weights, model.value, ids)
    for name, weight in model.weights.items():
        changed = model.weights | {name: weight[::-1].copy()}
        assert not np.allclose(smollm2_numpy.logits(changed, model.value, ids), before), name


def test_the_reference_does_not_look_ahead(model: GGUFFile) -> None:
    ids = random_ids(9)
    whole = smollm2_numpy.logits(model.weights, model.value, ids)
    part = smollm2_numpy.logits(model.weights, model.value, ids[:4])
    np.testing.assert_allclose(whole[:4], part, rtol=0, atol=1e-12)


def test_attention_time_is_counted(model: GGUFFile) -> None:
    decoder = build_decoder(model)
    assert decoder.attention_seconds == 0
    decoder.logits([3, 4], decoder.new_caches())
    assert decoder.attention_seconds > 0


def test_tokens(model: GGUFFile) -> None:
    tokenizer = build_tokenizer(model)
    assert tokenizer.encode("user cat 12").tokens == ["user", "Ġc", "at", "Ġ", "1", "2"]
    assert tokenizer.decode(tokenizer.encode("user: 猫 is é\n").ids) == "user: 猫 is é\n"
