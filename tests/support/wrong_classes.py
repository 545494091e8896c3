"""Wrong calls of the caches and of the layer."""

import functools
from typing import Any

import numpy as np

from cpuattn import KVCache, MultiHeadAttention, PagedKVCache
from wrong_calls import GOOD, Arguments, Calls, calls, each, integers, ones, text


def _rows(**options: Any) -> KVCache:
    cache = KVCache(2, 3, 7, value_dim=8, **options)
    cache.append(GOOD["key"], GOOD["value"])
    return cache


def _pages(**options: Any) -> PagedKVCache:
    cache = PagedKVCache(8, 2, 3, 7, value_dim=8, **options)
    cache.append([cache.add(), cache.add()], GOOD["key"], GOOD["value"])
    return cache


def _caches() -> Calls:
    sizes: list[Any] = [0, -1, 1.5, "2", None]
    good: Arguments = {"batch": 2, "kv_heads": 3, "head_dim": 7}
    bad = [*each(dict.fromkeys((*good, "value_dim", "window", "max_capacity"), sizes))]
    bad += [*each({"capacity": [-1, 0.5], "sink_tokens": [-1, 0.5, 2]})]
    bad += [{"dtype": v} for v in ("i4", "nonsense", None)] + [{"capacity": 9, "max_capacity": 8}]
    yield from calls(KVCache, good, bad)
    good = {"num_pages": 4, "page_size": 2, "kv_heads": 3, "head_dim": 7}
    yield from calls(PagedKVCache, good, [*each(dict.fromkeys(good, sizes)), {"dtype": "i4"}])
    tokens = {"key": GOOD["key"], "value": GOOD["value"]}
    bad = [{n: v} for n in tokens for v in (ones(3, 8), integers(2, 3, 5, 7), [1.0], None)]
    bad += [{"key": ones(2, 3, 4, 7)}, {"value": ones(2, 2, 5, 8)}, {"key": ones(2, 3, 5, 8)}]
    bad += [{"lengths": v} for v in (6, -1, [1, 6], [1, 2, 3], [0.5, 1.0])]
    yield from calls(_rows(max_capacity=9).append, tokens, [*bad, {}])
    ids: list[Any] = [[0, 2], 0, [], [0, 0], [0.0, 1.0], [-1, 0], None]
    yield from calls(
        _pages().append, tokens | {"seq_ids": [0, 1]}, [*bad, *each({"seq_ids": ids}), {}]
    )
    own = ("key_lengths", "key_scale", "value_scale", "block_table")
    bad = [{n: [1, 1]} for n in own] + [{"query_offset": v} for v in ([1, 2, 3], 0.5)]
    bad += [{"query": v} for v in (ones(7), [1.0], integers(2, 6, 4, 7), ones(2, 6, 4, 6))]
    bad += [{"mask": ones(4, 4, dtype=bool)}, {"softcap": 0.0}, {"return_lse": 1}]
    query = {"query": GOOD["query"]}
    yield from calls(_rows().attend, query, bad)
    sinks = _rows(window=3, sink_tokens=1)
    more: list[Arguments] = [{"window": 2}, {"query_offset": 0}, {"out": ones(2, 6, 4, 7)}]
    for label, call in calls(sinks.attend, query, bad + more):
        yield f"sinks {label}", call
    paged_query = query | {"seq_ids": [0, 1]}
    yield from calls(_pages().attend, paged_query, [*bad, *each({"seq_ids": ids[:3]})])
    yield from calls(_rows().truncate, {}, [{"n": v} for v in (6, -1, [0, 6], [1], 0.5)])
    yield from calls(
        _rows().reorder, {}, [{"batch_indices": v} for v in ([0, 2], 0, [], [0.0], [-1])]
    )
    bad = [{"seq_id": v, "n": 1} for v in (5, -1, "a", 0.5)] + [{"n": v} for v in (6, -1, 0.5)]
    yield from calls(_pages().truncate, {"seq_id": 0}, bad)
    for method in (_pages().fork, _pages().free):
        yield from calls(method, {}, [{"seq_id": v} for v in (5, -1, "a", None)])
    yield from calls(_pages().block_table, {}, [{"seq_ids": v} for v in ids[:3]])


def _layers() -> Calls:
    sizes: list[Any] = [0, -1, 1.5, "24"]
    good: Arguments = {"embed_dim": 24, "num_heads": 6}
    optional = ("kv_heads", "head_dim", "value_head_dim", "key_dim", "value_dim")
    bad = [*each(dict.fromkeys((*good, *optional), sizes))]
    bad += [{"num_heads": 5}, {"kv_heads": 4}, {"dtype": int}, {"dtype": "float16"}]
    bad += [{"norm_eps": v} for v in (-1.0, np.inf, "small")]
    yield from calls(MultiHeadAttention, good, bad)
    layer, x, rope = MultiHeadAttention(24, 6), ones(2, 4, 24), (ones(4, 2), ones(4, 2))
    bad = [{"x": v} for v in (x.tolist(), x.astype("f8"), x[0, 0], ones(2, 4, 23), None)]
    bad += [{"context": v} for v in (ones(2, 4, 5), ones(3, 5, 24), (x, ones(2, 5, 24)), "c")]
    bad += [{"out": x}, {"return_lse": True}, {"rope": rope[:1]}, {"rope": rope, "context": x}]
    bad += [{"rope": (ones(3, 2), ones(3, 2))}, {"seq_ids": [0, 1]}, {"cache": {}}]
    yield from calls(layer, {"x": x}, bad)
    caches: dict[str, Any] = {
        "KVCache(2, 3, 4)": KVCache(2, 3, 4),
        "KVCache(3, 6, 4)": KVCache(3, 6, 4),
        "float64": KVCache(2, 6, 4, dtype="float64"),
        "pages": PagedKVCache(4, 2, 6, 4),
    }
    for name, cache in caches.items():
        yield f"layer cache={name}", functools.partial(layer, x, cache=cache)
        yield f"layer context={name}", functools.partial(layer, x, cache)
        both = functools.partial(layer, x, cache=cache, seq_ids=[0, 1])
        yield f"layer cache={name}, seq_ids", both
    state = layer.state_dict()
    bad = [{n: v} for n in state for v in (ones(5, 5), integers(24), [1.0])]
    bad += [{"bias_k": ones(24)}, {"k_proj.weight": ones(24, 24)}, {"q_norm.weight": ones(4)}]
    for change in bad:
        load = functools.partial(layer.load_state_dict, state | change)
        yield f"load_state_dict {text(change)}", load
    yield "load_state_dict nothing", lambda: layer.load_state_dict({})
    options: Arguments
    for options in ({"layout": "rows"}, {"norm_offset": 1.0}, {"norm_offset": -1.0}):
        load = functools.partial(layer.load_state_dict, state, **options)
        yield f"load_state_dict {options}", load
    yield "state_dict names", lambda: layer.state_dict(names="jax")  # type: ignore[arg-type]


def wrong_calls() -> Calls:
    """Give all wrong calls of this module."""
    yield from _caches()
    yield from _layers()
