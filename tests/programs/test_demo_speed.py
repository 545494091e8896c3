"""How the demos time: in turns that rotate, by medians. The clock is a false one."""

from collections.abc import Iterator

import pytest

from cpuattn.demo import speed


class Clock:
    """A clock that only moves when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def worker(self, name: str, seconds: Iterator[float]) -> object:
        def work() -> None:
            self.order.append(name)
            self.now += next(seconds)

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


def test_turns_rotate(clock: Clock) -> None:
    long = speed.TURN_SECONDS
    functions = {name: clock.worker(name, iter([long] * 9)) for name in "abc"}
    found = speed.interleaved_medians(functions, rounds=3)  # type: ignore[arg-type]
    assert "".join(clock.order) == "abc" + "abc" + "bca" + "cab"
    assert found == pytest.approx(dict.fromkeys("abc", long))


def test_slow_first_calls_of_a_turn_are_outvoted(clock: Clock) -> None:
    """As when the threads of the alternative before still spin."""
    short = speed.TURN_SECONDS / 100

    def disturbed() -> Iterator[float]:
        while True:
            yield from [20 * short] * 2 + [short] * 60

    functions = {"a": clock.worker("a", disturbed())}
    found = speed.interleaved_medians(functions, rounds=5)  # type: ignore[arg-type]
    assert found["a"] == pytest.approx(short)
