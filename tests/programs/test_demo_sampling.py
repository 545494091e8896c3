"""How `python -m cpuattn demo chat` chooses tokens."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cpuattn.demo.sampling import Sampler

# The logits of these probabilities; the likeliest is not the first.
SHARES = np.array([0.125, 0.5, 0.25, 0.0625, 0.0625])
LOGITS = np.log(SHARES).astype(np.float32) + np.float32(7)


def draws(sampler: Sampler, count: int, logits: NDArray[np.float32] = LOGITS) -> list[int]:
    return [sampler(logits) for _ in range(count)]


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-3])
def test_cold_is_greedy(temperature: float) -> None:
    assert set(draws(Sampler(temperature, 1.0, seed=1), 50)) == {1}


def test_a_seed_gives_the_same_draws() -> None:
    first, again, other = (draws(Sampler(1.0, 1.0, seed), 50) for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature: float) -> None:
    count = 4000
    found = np.bincount(draws(Sampler(temperature, 1.0, seed=2), count), minlength=len(SHARES))
    powers = SHARES ** (1 / temperature)
    expected = powers / powers.sum()
    # Four standard deviations of a binomial count.
    assert (np.abs(found - count * expected) < 4 * np.sqrt(count * expected * (1 - expected))).all()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1e-9, {1}),
        (0.49, {1}),
        (0.51, {1, 2}),
        (0.74, {1, 2}),
        (0.76, {0, 1, 2}),
        (0.88, {0, 1, 2, 3}),  # of two alike the first
        (1.0, {0, 1, 2, 3, 4}),
    ],
)
def test_top_p_keeps_the_fewest_tokens(top_p: float, kept: set[int]) -> None:
    assert set(draws(Sampler(1.0, top_p, seed=3), 500)) == kept


def test_top_p_looks_at_the_tempered_distribution() -> None:
    # At temperature 0.5 the likeliest token has 0.25 / 0.34 of the whole.
    assert set(draws(Sampler(0.5, 0.7, seed=3), 300)) == {1}


def test_the_rest_is_drawn_in_proportion() -> None:
    found = np.bincount(draws(Sampler(1.0, 0.7, seed=4), 3000))
    assert abs(found[1] / found[2] - 2) < 0.3


def test_impossible_tokens_are_never_drawn() -> None:
    logits = np.array([-np.inf, 0, -np.inf, 0], np.float32)
    assert set(draws(Sampler(5.0, 1.0, seed=5), 200, logits)) == {1, 3}
