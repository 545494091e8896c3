"""Fixtures of all tests: instruction sets, dtypes, and a watchdog for tests that could hang."""

import faulthandler
import math
import os
import time
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

import cpuattn
from cpuattn import _core
from oracle import Dtype

# A hung OpenMP barrier cannot be interrupted from Python: dump every stack and end the run.
SECONDS_PER_TEST = 120
_STDERR = pytest.StashKey[int]()
_ARMED = pytest.StashKey[float]()

# The same examples in every run: the error of one or two outputs against NumPy's is luck, and one
# random example in about a thousand breaks the rule of oracle.py with nothing wrong.
# To look for more: pytest --hypothesis-profile explore tests/attention/test_properties.py
hypothesis.settings.register_profile("same", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    # pytest captures descriptor 2 while a test runs; the watchdog needs the real one.
    config.stash[_STDERR] = os.dup(2)
    config.stash[_ARMED] = -math.inf


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # All instruction sets of one case in a row: they share its oracle, which costs the most.
    order: dict[str, int] = {}

    def rank(item: pytest.Item) -> int:
        name = item.nodeid
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            name = name.replace(str(item.callspec.params.get("isa", "")), "", 1)
        return order.setdefault(name, len(order))

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def _watchdog(pytestconfig: pytest.Config) -> None:
    # Each time starts a thread, which would take longer than many of the tests.
    if time.monotonic() - pytestconfig.stash[_ARMED] > 1:
        stderr = pytestconfig.stash[_STDERR]
        faulthandler.dump_traceback_later(SECONDS_PER_TEST, exit=True, file=stderr)
        pytestconfig.stash[_ARMED] = time.monotonic()


def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> None:
    """Let what many tests share, a download for one, take as long as it takes."""
    if fixturedef.scope != "function":
        _disarm(request.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    _disarm(config)


def _disarm(config: pytest.Config) -> None:
    faulthandler.cancel_dump_traceback_later()
    config.stash[_ARMED] = -math.inf


def _use_if_there(name: str) -> Iterator[str]:
    if name not in cpuattn.isas():
        pytest.skip(f"this CPU has no {name}")
    yield from _use(name)


def _use(name: str) -> Iterator[str]:
    one = np.ones((1, 1), np.float32)
    before = cpuattn.explain(one, one, one)["isa"]
    _core._use_isa(name)
    yield name
    _core._use_isa(before)


# These have kernels of their own for narrow numbers only, with tests of their own:
# test_int8_products.py and test_bfloat16_products.py. All else is avx512.
PRODUCTS = {"avx512_vnni", "avx512_bf16"}


@pytest.fixture(params=[name for name in cpuattn.isas() if name not in PRODUCTS])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once with each instruction set that this CPU has."""
    yield from _use(request.param)


@pytest.fixture
def bfloat16_isa() -> Iterator[str]:
    """Run the test with the instruction set that multiplies bfloat16, or skip it."""
    yield from _use_if_there("avx512_bf16")


@pytest.fixture
def int8_isa() -> Iterator[str]:
    """Run the test with the instruction set that multiplies int8, or skip it."""
    yield from _use_if_there("avx512_vnni")


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Dtype:
    return request.param  # type: ignore[no-any-return]
