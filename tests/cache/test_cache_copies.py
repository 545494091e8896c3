"""Caches that are copied, pickled, or handed out with memory that may not be written."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_cases import DTYPES, dtype_of, made_read_only
from cache_steps import STEPS, before_and_after, same
from cpuattn import KVCache

WAYS: dict[str, Callable[[Any], Any]] = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),  # noqa: S301 (just pickled)
    "pickle, memory apart": made_read_only,
}
CHANGES = [name for name in STEPS if name not in ("copy", "attend")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHANGES)
def test_a_copy_does_what_the_first_does_and_leaves_it_alone(name: str, way: str) -> None:
    step = STEPS[name]
    before, after = before_and_after(step)
    first = step.make()
    copied = WAYS[way](first)
    assert same(step.look(copied), before)
    step.do(copied)
    assert same(step.look(copied), after)
    assert same(step.look(first), before)


@pytest.mark.parametrize("name", DTYPES)
def test_memory_maps_of_joblib(name: str, tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    token = np.ones((1, 8, 1, 64), np.float64 if name == "float64" else np.float32)
    cache = KVCache(1, 8, 64, capacity=2000, dtype=dtype_of(name))
    cache.append(token, token)
    joblib.dump(cache, tmp_path / "cache")
    for mode in ("r", "c", "r+"):
        loaded = joblib.load(tmp_path / "cache", mmap_mode=mode)
        np.testing.assert_array_equal(loaded.attend(token), cache.attend(token))
        loaded.append(token, token)
        assert loaded.lengths.tolist() == [2]
        assert loaded.capacity == 2000
        np.testing.assert_array_equal(loaded.keys[:, :, 0], loaded.keys[:, :, 1])
