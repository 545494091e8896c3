"""How the next token is chosen: the likeliest one, or a draw."""

import numpy as np

from cpuattn.demo.decoder import Array


class Sampler:
    """Choose by temperature and nucleus (top-p) sampling, in this order.

    Parameters
    ----------
    temperature : float
        Divides the logits: below 1 likely tokens become likelier, 0 always takes the likeliest.
    top_p : float
        Only the likeliest tokens are drawn from: the fewest whose probabilities sum to at least
        this share, 1 for all tokens.
    seed : int
        The same seed gives the same draws.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._generator = np.random.default_rng(seed)

    def __call__(self, logits: Array) -> int:
        """Return the next token for the logits (V,)."""
        if self._temperature == 0:
            return int(np.argmax(logits))
        distances = logits.astype(np.float64) - logits.max()
        with np.errstate(over="ignore"):  # a tiny temperature: -inf, of which exp is 0
            likelihoods = np.exp(distances / self._temperature)
        order = np.argsort(-likelihoods, kind="stable")
        sums = np.cumsum(likelihoods[order])
        count = 1 + int(np.searchsorted(sums, self._top_p * sums[-1]))
        # A point on the line of the tokens kept, each as long as it is likely; the draw is below 1.
        point = self._generator.random() * sums[count - 1]
        return int(order[np.searchsorted(sums[: count - 1], point, side="right")])
