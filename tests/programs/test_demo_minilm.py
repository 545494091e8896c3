"""The encoder of `python -m cpuattn demo minilm` on small random weights."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from cpuattn.demo import minilm_numpy
from cpuattn.demo.minilm import MiniLM, gelu
from small_minilm import VOCABULARY, random_weights


@pytest.fixture(scope="module")
def weights() -> dict[str, NDArray[np.float32]]:
    return random_weights()


@pytest.mark.parametrize("lengths", [[1], [7], [3, 1, 12, 12, 5], [200, 2]])
def test_ragged_batch_equals_numpy(
    weights: dict[str, NDArray[np.float32]], lengths: list[int]
) -> None:
    generator = np.random.default_rng(5)
    sequences = [generator.integers(0, VOCABULARY, length).tolist() for length in lengths]
    found = MiniLM(weights).embed(sequences)
    expected = [minilm_numpy.embed(weights, sequence) for sequence in sequences]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_the_reference_sees_every_weight(weights: dict[str, NDArray[np.float32]]) -> None:
    ids = [1, 2, 3, 2]
    before = minilm_numpy.embed(weights, ids)
    for name in weights:
        changed = weights | {name: weights[name][::-1].copy()}
        # A bias of the keys moves all scores of a query alike: the softmax does not see it.
        unseen = name.endswith("self.key.bias")
        assert np.allclose(minilm_numpy.embed(changed, ids), before) == unseen, name


def test_gelu_against_erf() -> None:
    x = np.linspace(-12, 12, 4001, dtype=np.float32)[:, None]
    exact = [[value * (0.5 + 0.5 * math.erf(value / math.sqrt(2)))] for value in x[:, 0].tolist()]
    # erf is wrong by 1.5e-7 at most, so the result by half of that times x, and rounding.
    assert (np.abs(gelu(x.copy()) - exact) <= 1e-7 * np.abs(x) + 1e-7).all()
