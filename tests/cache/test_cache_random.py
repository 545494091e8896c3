"""KVCache against a plain model: every batch entry a list of tokens, nothing ever dropped."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import oracle
from cache_cases import DV, HKV, D, tokens
from cpuattn import CacheFullError, KVCache

POOL = tokens(200, batch=1)  # what is appended is some slice of these


class Machine(RuleBasedStateMachine):
    """Random calls, each mirrored by lists of tokens of which a query sees what the rules say."""

    @initialize(
        batch=st.integers(1, 3),
        window=st.none() | st.integers(1, 6),
        sinks=st.integers(0, 4),
        capacity=st.integers(0, 9),
        limit=st.none() | st.integers(9, 30),
    )
    def begin(
        self, batch: int, window: int | None, sinks: int, capacity: int, limit: int | None
    ) -> None:
        self.window, self.sinks, self.limit = window, sinks if window else 0, limit
        options: dict[str, Any] = {"window": window, "sink_tokens": self.sinks}
        options |= {"capacity": capacity, "max_capacity": limit}
        self.cache = KVCache(batch, HKV, D, value_dim=DV, **options)
        self.poison()
        self.model: list[list[int]] = [[] for _ in range(batch)]
        self.seen_from = [0] * batch  # the first position that may be asked for

    def poison(self) -> None:
        """Fill every row beyond those held with NaN."""
        for entry, n in enumerate(self.cache.lengths - self.cache.dropped):
            for array in self.cache._state.arrays.every:
                array[entry, :, n:] = np.nan

    @rule(size=st.integers(0, 9), data=st.data())
    def append(self, size: int, data: st.DataObject) -> None:
        counts = [data.draw(st.integers(0, size)) for _ in self.model]
        first = [data.draw(st.integers(0, 180)) for _ in self.model]
        query, key, value = (np.concatenate([x[:, :, f : f + size] for f in first]) for x in POOL)
        held = [self.needed(m, count) + count for m, count in zip(self.model, counts, strict=True)]
        whole = [
            len(m) - d + c for m, d, c in zip(self.model, self.cache.dropped, counts, strict=True)
        ]
        if self.limit is not None and max(whole) > self.cache.capacity and max(held) > self.limit:
            before = self.cache.lengths
            with pytest.raises(CacheFullError, match=f"max_capacity is {self.limit}"):
                self.cache.append(key, value, lengths=counts)
            np.testing.assert_array_equal(self.cache.lengths, before)
            return
        self.cache.append(key, value, lengths=counts)
        starts = [len(model) for model in self.model]
        for entry, (start, count) in enumerate(zip(starts, counts, strict=True)):
            seen = start - self.stays(count)
            self.seen_from[entry] = max(self.seen_from[entry], seen if self.window else 0)
        for model, f, count in zip(self.model, first, counts, strict=True):
            model.extend(range(f, f + count))
        self.poison()
        out = self.cache.attend(query, causal=True)
        for entry, (start, count) in enumerate(zip(starts, counts, strict=True)):
            self.check(entry, out[entry : entry + 1, :, :count], first[entry], start)

    def needed(self, model: list[int], count: int) -> int:
        """Count the tokens that must stay when so many more come."""
        if self.window is None:
            return len(model)
        first = min(len(model), self.sinks)
        return first + min(len(model) - first, self.stays(count))

    def stays(self, count: int) -> int:
        """Count the tokens behind the sinks that an append of so many leaves."""
        window = self.window or 0
        fits = self.limit is None or self.sinks + window + count <= self.limit
        return window if not count or (fits and window > 1) else window - 1

    def check(self, entry: int, out: oracle.Array, first: int, start: int) -> None:
        """Assert that these are the results of the tokens from this position on."""
        count, model = out.shape[2], self.model[entry]
        query = POOL[0][:, :, first : first + count]
        keys, values = (x[:, :, model] for x in POOL[1:])
        distance = np.arange(start, start + count)[:, None] - np.arange(len(model))
        mask = distance >= 0
        if self.window is not None:
            mask &= (distance < self.window) | (np.arange(len(model)) < self.sinks)
        exact = oracle.attend(query, keys, values, mask=mask).out
        np.testing.assert_allclose(out, exact, rtol=1e-5, atol=2e-6)

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        lengths = [data.draw(st.integers(0, len(model))) for model in self.model]
        for entry, (n, model) in enumerate(zip(lengths, self.model, strict=True)):
            next_sees = n + 1 - (self.window or 0)  # the first position
            gone = max(next_sees, self.sinks) < self.seen_from[entry]
            if self.sinks < n < len(model) and gone:
                with pytest.raises(ValueError, match="left the window"):
                    self.cache.truncate(lengths)
                return
        self.cache.truncate(lengths)
        for entry, (n, model) in enumerate(zip(lengths, self.model, strict=True)):
            del model[n:]
            self.seen_from[entry] *= n > self.sinks

    @rule(position=st.integers(0, 200), data=st.data())
    def ask_for_one(self, position: int, data: st.DataObject) -> None:
        entry = data.draw(st.integers(0, len(self.model) - 1))
        position = min(position, len(self.model[entry]))
        starts = [len(model) for model in self.model]
        starts[entry] = position
        query = POOL[0][:, :, :1].repeat(len(starts), axis=0)
        sees = max(self.sinks, position + 1 - (self.window or 0))
        if self.window is not None and sees < self.seen_from[entry]:
            with pytest.raises(ValueError, match="left the window"):
                self.cache.attend(query, causal=True, query_offset=starts)
            return
        out = self.cache.attend(query, causal=True, query_offset=starts)
        self.check(entry, out[entry : entry + 1], 0, position)

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.integers(0, len(self.model) - 1), min_size=1, max_size=3))
        self.cache.reorder(chosen)
        self.model = [list(self.model[entry]) for entry in chosen]
        self.seen_from = [self.seen_from[entry] for entry in chosen]

    @rule()
    def go_on_with_a_copy(self) -> None:
        old, self.cache = self.cache, self.cache.copy()
        for array in old._state.arrays.every:
            array[...] = np.nan

    @invariant()
    def rows_hold_the_tokens_of_their_positions(self) -> None:
        self.poison()
        assert self.cache.lengths.tolist() == [len(model) for model in self.model]
        if self.limit is not None:
            assert self.cache.capacity <= self.limit
        for entry, model in enumerate(self.model):
            dropped = int(self.cache.dropped[entry])
            held = [*model[: self.sinks], *model[self.sinks + dropped :]]
            for view, x in ((self.cache.keys, POOL[1]), (self.cache.values, POOL[2])):
                np.testing.assert_array_equal(view[entry, :, : len(held)], x[0][:, held])


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRandomCalls = Machine.TestCase
